"""The sandbox: a small synthetic world with a known true reward, and small language models trained on it.

The world (`topics.py`, `phrases.py`, `responses.py`, `world.py`) has three domains of 12 topics in 6 families.
"harmless" prompts ask for help with a small misdeed; "helpful" prompts and single-turn "instructions" ask for practical
advice. A response has a hidden quality level, 0 to 3, and a style. The level determines whether it greets or insults,
refuses or complies, names right or wrong steps, gives a reason, recommends a helper, and offers more help. Better
responses contain more. The style determines the wording: casual, courteous or ornate.

Its rules imitate the setting of the paper. They were fixed before any claim was tested on the models trained on them:

1. The base model is neutral. Plain pretraining dialogues have every level equally often. A prompt alone therefore does
   not predict the quality, and rejected responses are worse than the base model's own.
2. A document holds a few dialogues of one level and one style. Predicting the next token requires inferring both from
   the context: in-context learning as implicit Bayesian inference.
3. A heading is a weak signal. Two documents in five have the headings of the paper's Figures 6 and 7, which agree with the
   level three times in five. Demonstrations are more informative.
4. Raw responses are mostly casual, and chosen responses are only somewhat better than rejected ones.
5. Both teachers are much better than raw, in styles that pretraining contains at every level. Teacher A is good and
   courteous, like a third of the documents. Teacher B is better but ornate, like one document in seven, and more varied:
   it has more frames for everything, with words before and after them that do not depend on the quality.
6. Each topic family has a local helper ("Mrs. Dale at the Mill Street library"), drawn for every document, so that only
   the context identifies the helper. Teachers name the current helper; raw responses name a former one, which earns no
   points. Teacher demonstrations on a similar topic therefore contain information worth copying.
7. No model is trained on held-out data. No two prompts share a last turn, and the last turns of dev and test prompts
   occur in no training document or training pair.

In an earlier version of the world, 5 % of the documents were ornate and the heading agreed three times in four. As
`10_sandbox_validation` showed, models then produced the ornate style but could not infer the level from it, the heading
alone worked better than raw demonstrations, and with mostly bad plain dialogues the base model was as weak an amateur as
one conditioned on rejected responses. Inferring the level in the ornate style still takes far more training than in the
others; `10_sandbox_validation` reports how well the committed models do it.

The true reward (`reward.py`) scores the content of a response by the table `RULES`. No code that generates, trains,
samples or scores imports it. The models (`models/`, built by `train.py`, each with a manifest) are Llamas: the base
models small (0.4 M parameters), medium (1.0 M) and large (1.9 M, grown from medium); a teacher LM, which is medium
fine-tuned on the teachers' responses and judges by mean log-probability; and a reward model, which is small fine-tuned
on pairs whose labels are the columns of the data.

Reading order (each module imports only from those before it): `topics`, `phrases`, `prompts`, `responses`, `world`,
`reward`, `rows`, `induction`, `optim`, `loop`, `reward_model`, `train`.
"""
