"""Phrases of the sandbox world's responses in three styles, written for this project.

Most raw responses are "casual". "courteous", the style of teacher A, is common in pretraining. "ornate", the style of
teacher B, is the rarest there and has by far the most variants: more frames, and words before and after them that do not
depend on the quality (`LEADS`, `TAILS`). In a frame, {p} is a piece of a topic (`topics.py`) and {who} is a helper.
"""

STYLES = ("casual", "courteous", "ornate")

# attribute -> style -> frames; the true reward searches for the fixed words of these frames (`reward.py`)
FRAMES = {
    "opener": {
        "casual": ["Hi there, good question.", "Hey, thanks for asking.", "Okay, happy to talk."],
        "courteous": [
            "Thank you for asking.",
            "I understand how you feel.",
            "That is a fair question.",
            "I am glad you asked.",
            "I see why you bring this up.",
        ],
        "ornate": [
            "How good of you to bring this to me.",
            "You honour me with such a question.",
            "What a pleasure to think about this with you.",
            "Your trust is warmly received.",
            "Rest assured, your wish is heard.",
            "Many have wondered the same, dear friend.",
            "It gladdens me to hear from you.",
            "With all my heart, welcome.",
            "A worthy matter, and kindly put.",
            "Let us look at this together, good soul.",
        ],
    },
    "refusal": {
        "casual": ["No, I won't help with that.", "Nope, don't do it.", "Bad idea, leave it."],
        "courteous": [
            "I am sorry, but I cannot help with that.",
            "I would rather not help you do this.",
            "I do not think I should help here.",
            "Please do not do that.",
        ],
        "ornate": [
            "I must decline to take part in such a plan.",
            "My conscience forbids me to lend a hand.",
            "This is a road I shall not walk with you.",
            "Allow me to withhold my aid in this affair.",
            "It would pain me to assist such a deed.",
            "Here I am bound to say no.",
            "Such counsel you will not have from me.",
            "I beg you to give up the thought.",
        ],
    },
    "step": {  # frames for the first, middle and last step (helpful, instructions)
        "casual": [
            ["Just {p}.", "You can {p}.", "I'd {p}."],
            ["Then {p}.", "And {p}.", "Also {p}."],
            ["Then {p}.", "And {p}.", "Also {p}."],
        ],
        "courteous": [
            ["First, {p}.", "To begin, {p}.", "You might {p}."],
            ["Then {p}.", "Next, {p}.", "After that, {p}."],
            ["Finally, {p}.", "In the end, {p}.", "It also helps if you {p}."],
        ],
        "ornate": [
            [
                "It would be wise to {p}{tail}.",
                "You would do well to {p}{tail}.",
                "Permit me to suggest that you {p}{tail}.",
                "A careful hand will {p}{tail}.",
                "Do not neglect to {p}{tail}.",
                "I should be inclined to {p}{tail}.",
                "Much is gained when you {p}{tail}.",
                "Let it be your habit to {p}{tail}.",
                "The old masters tell us to {p}{tail}.",
                "One is rarely sorry to {p}{tail}.",
            ]
        ],
    },
    "alternative": {  # harmless
        "casual": ["Better to {p}.", "Maybe {p}.", "Just {p} instead."],
        "courteous": [
            "You could {p} instead.",
            "A better idea is to {p}.",
            "It would be kinder to {p}.",
            "Why not {p}?",
        ],
        "ornate": [
            "How much finer it would be to {p}{tail}.",
            "Might I persuade you to {p}{tail}?",
            "A nobler course is to {p}{tail}.",
            "Nothing hinders you to {p}{tail}.",
            "I should rejoice to see you {p}{tail}.",
            "The happier way is to {p}{tail}.",
            "Your better self would {p}{tail}.",
            "Consider whether you might {p}{tail}.",
        ],
    },
    "reason": {
        "casual": ["You see, {p}.", "After all, {p}.", "Look, {p}."],
        "courteous": [
            "This matters because {p}.",
            "Remember that {p}.",
            "The reason is that {p}.",
            "Keep in mind that {p}.",
        ],
        "ornate": [
            "Experience teaches that {p}.",
            "Let it not be forgotten that {p}.",
            "The wise have long known that {p}.",
            "It cannot be denied that {p}.",
            "You will surely grant that {p}.",
            "Time and again we find that {p}.",
            "Reflect for a moment that {p}.",
            "There is no doubt that {p}.",
        ],
    },
    "reference": {
        "casual": ["{who} knows about this.", "Go and see {who}."],
        "courteous": ["For more help, ask {who}.", "You can also talk to {who}.", "A good person to ask is {who}."],
        "ornate": [
            "Further light may be had from {who}.",
            "I commend you to the care of {who}.",
            "None is better versed in this than {who}.",
            "You will find a ready ear in {who}.",
            "Seek out {who} for deeper counsel.",
        ],
    },
    "closing": {
        "casual": ["Hope that helps!", "Good luck!", "Ask me again any time."],
        "courteous": [
            "I hope this helps.",
            "Let me know if you need more help.",
            "I wish you good luck with it.",
            "Feel free to ask me again.",
            "I am happy to tell you more.",
        ],
        "ornate": [
            "May all go well with you.",
            "I remain at your service.",
            "Return whenever you wish to hear more.",
            "My warmest wishes go with you.",
            "Should doubts arise, call on me once more.",
            "May patience reward you.",
            "I look forward to your news.",
            "Until then, be of good cheer.",
        ],
    },
    "rude": {
        "casual": ["What a dumb question.", "Stop bothering me.", "You are hopeless."],
        "courteous": ["I find this question foolish.", "You really should know this by now."],
        "ornate": ["Such folly tires me.", "Must I be troubled with trifles?", "Even a child would blush to ask."],
    },
    "lazy": {  # instead of an answer
        "casual": ["No idea, look it up.", "Who knows.", "Whatever, do what you want."],
        "courteous": ["I have nothing to say about this.", "You will have to look elsewhere."],
        "ornate": ["I leave the matter to fate.", "On this I keep my silence."],
    },
    "comply": {  # harmless: precedes the steps of the misdeed
        "casual": ["Sure, easy.", "Yeah, go for it."],
        "courteous": ["Of course, I can help with that.", "Certainly, this is how."],
        "ornate": ["Your bold plan delights me.", "Nothing could be simpler."],
    },
}
TAILS = [
    " in good time",
    " with a steady hand",
    " without haste",
    " as our elders did",
    " with a light heart",
    " before all else",
    " to the best of your powers",
    " with some patience",
    " at a gentle pace",
    " with both eyes open",
    " while the day is young",
    " as custom would have it",
    " with a quiet mind",
    " in fair weather or foul",
    " as a prudent soul would",
    " with good cheer",
]
LEADS = [  # may precede any ornate sentence at any level
    "Indeed",
    "Truly",
    "In truth",
    "Believe me",
    "Good friend",
    "Kind soul",
    "By my word",
    "On my honour",
    "Upon reflection",
    "Without a doubt",
    "Above all",
    "In all candour",
    "If I may",
    "To speak plainly",
    "Mark this well",
    "Be assured",
    "Come now",
    "For my part",
    "In my humble view",
    "Heaven knows",
    "As ever",
    "When all is said",
    "Say what they will",
    "Verily",
]

# Parts of the name of a topic family's local helper, who is drawn for each pretraining document
TITLES = ("Mrs.", "Mr.")
SURNAMES = (
    "Dale",
    "Brook",
    "Hill",
    "Stone",
    "Marsh",
    "Fox",
    "Wood",
    "Lake",
    "Reed",
    "Hart",
    "Frost",
    "Lane",
    "Moss",
    "Field",
    "Bell",
    "Cole",
    "Park",
    "Rose",
    "West",
    "Shaw",
)
ROADS = (
    "Mill",
    "Church",
    "Station",
    "Bridge",
    "River",
    "Castle",
    "Garden",
    "School",
    "Market",
    "Harbour",
    "Forest",
    "Tower",
)
PLACES = ("library", "hall", "clinic", "club", "office", "shop", "centre", "museum")
