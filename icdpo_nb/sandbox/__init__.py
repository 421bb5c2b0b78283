"""The sandbox: a small world whose true reward is known, and language models that learn in context, all made here.

The world (`topics.py`, `phrases.py`, `world.py`) has three domains of 12 topics in 6 families. "harmless" prompts ask
for help with a small misdeed, "helpful" prompts and single-turn "instructions" for practical advice. A response has a
hidden quality level, 0 to 3, and a style. Given the level it greets or insults, refuses or complies, names right or
wrong steps, gives a reason, recommends a helper, offers more help: better responses say more. Given the style it says
so in casual, courteous or ornate words; ornate is rare in pretraining (5 %) and richest in variants.

A pretraining document holds a few dialogues of one level and one style, half of them under the headings of the
paper's Figures 6 and 7, which agree with the level three times in four. So predicting the next token means inferring
the level from what came before: in-context learning as implicit Bayesian inference. Each topic family has a local
helper ("Mrs. Dale at the Mill Street library"), drawn anew for every document: only the context tells who it is.

The preference data (`data/*.jsonl.gz`) have raw pairs, mostly casual, chosen only somewhat better than rejected, and
two teachers: A is good and courteous, B better, but ornate. Teachers name each family's current helper; raw responses
name a former one, which earns nothing. So demonstrations on a similar topic carry something worth copying if a
teacher wrote them.

The true reward (`reward.py`) counts what a response says, by the table `RULES`. Nothing that generates, trains,
samples or scores imports it. The models (`models/`, built by `train.py`, each with a manifest) are Llamas: small (0.4
M parameters), medium (1.0 M) and large (1.9 M, grown out of medium) base models; a teacher LM, which went on from
medium with the teachers' responses and judges by mean log-probability; and a reward model, which went on from small
with pairs and learned which column a response came from.
"""
