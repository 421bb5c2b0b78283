"""The sandbox: a small world whose true reward is known, and language models that learn in context, all made here.

The world (`topics.py`, `phrases.py`, `responses.py`, `world.py`) has three domains of 12 topics in 6 families.
"harmless" prompts ask for help with a small misdeed, "helpful" prompts and single-turn "instructions" for practical
advice. A response has a hidden quality level, 0 to 3, and a style. Given the level it greets or insults, refuses or
complies, names right or wrong steps, gives a reason, recommends a helper, offers more help: better responses say more.
Given the style it says so in casual, courteous or ornate words.

Its rules follow what the paper's world has, and were fixed before any claim was tested on the models that learned them:

1. The base model is neutral. Plain pretraining dialogues have every level equally often, so that a prompt alone promises
   nothing, and what is shown as rejected is worse than what the model would say by itself.
2. A document holds a few dialogues of one level and one style. Predicting the next token means inferring both from what
   came before: in-context learning as implicit Bayesian inference.
3. A heading is a hint. Two documents in five stand under those of the paper's Figures 6 and 7, which agree with the
   level three times in five; demonstrations tell more.
4. Raw responses are mostly casual, and chosen ones only somewhat better than rejected ones.
5. Both teachers are much better than raw, in styles that pretraining holds, whatever the level. A is good and courteous,
   as a third of the documents are. B is better, but ornate, as one document in seven is, and more varied: it has more
   frames for everything, and words before and after them that say nothing of the quality.
6. Each topic family has a local helper ("Mrs. Dale at the Mill Street library"), drawn anew for every document: only the
   context tells who it is. Teachers name the current one, raw responses a former one, which earns nothing. So
   demonstrations on a similar topic carry something worth copying if a teacher wrote them.
7. Nothing is trained on what is held out: no two prompts share a last turn, and no last turn of a dev or test prompt
   occurs in a document or in a pair that a model learns from.

In an earlier world ornate documents were 5 % and the heading agreed three times in four. `10_sandbox_validation`
showed what that did: models spoke the ornate style but could not read a level in it, the heading alone served better than raw
demonstrations, and with mostly bad plain dialogues the base model was as bad an amateur as one shown rejected responses.
To read a level in the ornate style still takes far more training than in the others; `10_sandbox_validation` shows how far
the committed models have come.

The true reward (`reward.py`) counts what a response says, by the table `RULES`. Nothing that generates, trains,
samples or scores imports it. The models (`models/`, built by `train.py`, each with a manifest) are Llamas: small (0.4
M parameters), medium (1.0 M) and large (1.9 M, grown out of medium) base models; a teacher LM, which went on from
medium with the teachers' responses and judges by mean log-probability; and a reward model, which went on from small
with pairs and learned which column a response came from.

Read in this order, each importing only from above: `topics`, `phrases`, `prompts`, `responses`, `world`, `reward`, `rows`,
`induction`, `optim`, `loop`, `reward_model`, `train`.
"""
