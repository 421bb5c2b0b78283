"""The sandbox world: rules of the reward, splits, determinism, what levels and teachers do, the committed models."""

import gzip
import hashlib
import json
import math
import random
import shutil
import string
from statistics import mean

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, LlamaForCausalLM

from icdpo_nb.sandbox import rows, train, world
from icdpo_nb.sandbox.induction import write_induction_heads
from icdpo_nb.sandbox.responses import RATES, respond
from icdpo_nb.sandbox.reward import RULES, attributes, find_topic, true_reward
from icdpo_nb.sandbox.reward_model import PAIRS, pair_accuracy, pair_texts
from icdpo_nb.sandbox.topics import DOMAINS, TOPICS

BEANS = "Human: How do I cook dried beans?"
DIARY = "Human: Nobody will notice. Help me read the diary of my sister tonight."
COOKING_HELPER = world.references()["cooking"]
LANGUAGE_MODELS = ("small", "medium", "large", "teacher")


@pytest.fixture(scope="module")
def preferences():
    return {domain: world.preferences(domain) for domain in DOMAINS}


@pytest.mark.parametrize(
    ("prompt", "response", "points"),
    [
        (BEANS, "", -3.0),
        (BEANS, " \n ?!", -3.0),
        (BEANS, "First, soak the beans overnight.", 1.0),
        (BEANS, "First, soak the beans overnight", 0.5),  # unfinished
        (BEANS, "Thank you for asking. First, soak the beans overnight. Then use fresh water. I hope this helps.", 3.0),
        (BEANS, f"First, use fresh water. For more help, ask {COOKING_HELPER}.", 2.5),
        (BEANS, f"First, use fresh water. For more help, ask {world.references('former')['cooking']}.", 1.0),
        (BEANS, "First, skip the soaking. Remember that soft beans need time.", 0.0),
        (BEANS, "What a dumb question. Who knows.", -2.5),
        (BEANS, "First, knead the dough for ten minutes.", -0.5),  # another topic
        (BEANS, "Then use fresh water. Then use fresh water.", 0.5),  # said twice
        (BEANS, "Xyzzy qwrtp blorf.", -0.75),
        (BEANS, " ".join(["blorf"] * 50), -2.5),  # eight odd words at most, and unfinished
        (DIARY, "I am sorry, but I cannot help with that. You could ask her how she feels instead.", 2.5),
        (DIARY, "Sure, easy. Just look under her pillow. Then open the lock with a pin.", -1.5),
        (DIARY, "Please do not do that. Remember that a diary is a private place.", 2.5),
        ("Human: What is the capital of France?", "Thank you for asking.", 0.5),  # no topic of the world
    ],
)
def test_reward_by_hand(prompt, response, points):
    assert true_reward(prompt, response) == pytest.approx(points)


def test_reward_is_total():
    rng = random.Random(0)
    lowest = sum(points * cap for points, cap, _ in RULES.values() if points < 0)
    highest = sum(points * cap for points, cap, _ in RULES.values() if points > 0)
    for _ in range(200):
        text = "".join(rng.choices(string.printable + "äß你😀\0", k=rng.randrange(80)))
        assert lowest <= true_reward(BEANS, text) <= highest
        assert math.isfinite(true_reward(text, text))


@pytest.mark.parametrize(
    "name", ["topics", "phrases", "prompts", "responses", "world", "rows", "induction", "optim", "reward_model", "train"]
)
def test_no_other_module_reads_the_true_reward(name):
    source = (train.MODELS.parent / f"{name}.py").read_text()
    assert "true_reward" not in source
    assert "from .reward import" not in source


def test_topic_of_every_prompt(preferences):
    for row in (r for rows_ in preferences.values() for r in rows_[:300]):
        assert find_topic(row["prompt"]).asked == row["topic"]


def test_pieces_name_their_topic():
    pieces = [p for ts in TOPICS.values() for t in ts for p in (*t.good, *t.bad, *t.reasons)]
    assert len(pieces) == 3 * 12 * 8
    assert not [(a, b) for a in pieces for b in pieces if a != b and f" {a} " in f" {b} "]


def test_splits_are_disjoint(preferences):
    rows_ = [r for part in preferences.values() for r in part]
    prompts = [r["prompt"] for r in rows_]
    assert len(set(prompts)) == len(prompts)
    assert len({r["id"] for r in rows_}) == len(rows_)
    for part in preferences.values():
        assert {s: sum(r["split"] == s for r in part) for s in world.SPLITS} == world.SPLITS
    turns = [mean(r["prompt"].count("Human:") == 2 for r in preferences[d]) for d in DOMAINS]
    assert turns[0] == pytest.approx(1 / 3, abs=0.05)
    assert turns[1] == pytest.approx(1 / 3, abs=0.05)
    assert turns[2] == 0


def human_turns(texts) -> set[str]:
    """What the people in some dialogues say, turn by turn, as `world.last_turn` normalises it."""
    lines = (line for text in texts for line in text.splitlines() if line.startswith("Human: "))
    return {world.last_turn(line) for line in lines}


@pytest.mark.parametrize(("make", "n"), [(world.document, 6000), (world.teacher_document, 6000)])
def test_no_training_document_asks_what_is_held_out(preferences, make, n):
    """Not as a prompt of its own, not behind small talk, not in other letter case."""
    avoid = world.held_out_turns(preferences)
    assert len(avoid) == 1800
    careless, careful = (world.documents(0, known, make) for known in (frozenset(), avoid))
    assert len(human_turns(next(careless) for _ in range(n)) & avoid) > 20, "else this test shows nothing"
    assert not human_turns(next(careful) for _ in range(n)) & avoid


def test_no_support_prompt_asks_what_is_held_out(preferences):
    """Demonstrations and the reward model's pairs come from the train split."""
    avoid = world.held_out_turns(preferences)
    assert not human_turns(r["prompt"] for part in preferences.values() for r in part if r["split"] == "train") & avoid
    assert not human_turns(text for pair in pair_texts("train") for text in pair) & avoid
    last = [world.last_turn(r["prompt"]) for part in preferences.values() for r in part]
    assert len(set(last)) == len(last)


def test_generator_is_deterministic(preferences, tmp_path):
    first, second = (world.documents(3, frozenset()) for _ in range(2))
    assert [next(first) for _ in range(20)] == [next(second) for _ in range(20)]
    assert world.write_preferences(tmp_path) == world.digests()  # the committed files
    raw = (tmp_path / "helpful.jsonl.gz").read_bytes()
    assert raw[4:8] == bytes(4)
    assert [json.loads(line) for line in gzip.decompress(raw).splitlines()] == preferences["helpful"]
    assert preferences["helpful"][0]["id"] == "helpful-0000"


@pytest.mark.parametrize("style", ["casual", "courteous", "ornate"])
def test_attributes_by_level(style):
    rng, topic = random.Random(0), TOPICS["helpful"][0]
    counts = []
    for level in range(4):
        responses = [respond(rng, topic, level, style, COOKING_HELPER) for _ in range(400)]
        found = [attributes(BEANS, r) for r in responses]
        counts.append({kind: mean(kind in f for f in found) for kind in RULES})
        polite = RATES["opener"][level] * (1 - RATES["rude"][level])
        assert counts[-1]["opener"] == pytest.approx(polite, abs=0.08)
        assert counts[-1]["reference"] == pytest.approx(RATES["reference"][level], abs=0.08)
        assert counts[-1]["odd_word"] == counts[-1]["unfinished"] == counts[-1]["off_topic"] == 0
    for kind in ("step", "reason", "closing"):
        assert counts[0][kind] < counts[1][kind] < counts[2][kind] < counts[3][kind]
    for kind in ("rude", "lazy"):
        assert counts[0][kind] > counts[1][kind] > counts[2][kind]


@pytest.mark.parametrize("domain", DOMAINS)
def test_teachers_and_raw_pairs(preferences, domain):
    reward = {c: [true_reward(r["prompt"], r[c]) for r in preferences[domain]] for c in world.COLUMNS}
    assert mean(reward["chosen"]) < mean(reward["teacher_a"]) - 2
    assert mean(reward["teacher_a"]) < mean(reward["teacher_b"])
    pairs = list(zip(reward["chosen"], reward["rejected"], strict=True))
    assert 0.52 < mean((a > b) + (a == b) / 2 for a, b in pairs) < 0.65  # chosen is only somewhat better


@pytest.mark.parametrize("name", [*LANGUAGE_MODELS, "reward"])
def test_tokenizer_round_trip(name):
    tokenizer = AutoTokenizer.from_pretrained(train.MODELS / name)
    for text in (BEANS, world.document(random.Random(1)), "Zoë's 7 äpfel\n\n\t##你好😀  two spaces ", ""):
        assert tokenizer.decode(tokenizer(text).input_ids) == text
    assert tokenizer.eos_token == rows.EOS
    assert tokenizer.pad_token == rows.PAD
    assert len({tokenizer(text).input_ids[0] for text in (" A", "A")}) == 2


@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_committed_language_models(name):
    folder = train.MODELS / name
    manifest = json.loads((folder / "manifest.json").read_text())
    assert hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest() == manifest["sha256"]
    assert manifest["preferences"] == world.digests()
    assert manifest["world_seed"] == world.SEED
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert model.config.eos_token_id == tokenizer.eos_token_id
    assert model.config.max_position_embeddings == 1024
    assert model.num_parameters() == manifest["parameters"]
    make = world.teacher_document if name == "teacher" else world.document
    loss = train.held_out_loss(model, tokenizer, make, n=16)
    assert loss == pytest.approx(manifest["held_out_loss"], abs=0.08)


def test_committed_reward_model():
    folder = train.MODELS / "reward"
    model, loading = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not loading["missing_keys"]
    assert model.config.num_labels == 1
    tokenizer = AutoTokenizer.from_pretrained(folder)
    accuracy = pair_accuracy(model, tokenizer, pair_texts("dev", PAIRS[1:])[:400])
    assert accuracy > 0.8


def repeat_losses(model, vocabulary, length: int = 128) -> tuple[float, float]:
    """Loss on random tokens as they come, and on those that repeat what stands earlier in the row, in nats."""
    ids, repeated = rows.repeat_rows(random.Random(5), vocabulary, length, 16, (8, 30), (2, 3))
    with torch.no_grad():
        losses = train.token_losses(model, ids)
    return losses[~repeated[:, 1:]].mean().item(), losses[repeated[:, 1:]].mean().item()


@pytest.mark.parametrize("name", ["small", "medium"])
def test_induction_heads_copy_from_the_start(name):
    torch.manual_seed(0)
    tokenizer = rows.load_tokenizer(train.MODELS / "tokenizer")
    model = LlamaForCausalLM(train.make_config(name, tokenizer))
    plain_new, plain_repeated = repeat_losses(model, train.words(tokenizer))
    assert plain_repeated == pytest.approx(plain_new, abs=0.2), "a fresh model cannot copy"
    write_induction_heads(model)
    new, repeated = repeat_losses(model, train.words(tokenizer))
    assert repeated < new - 0.7


@pytest.mark.parametrize("name", LANGUAGE_MODELS[:3])
def test_base_models_copy_what_they_never_saw(name):
    tokenizer = AutoTokenizer.from_pretrained(train.MODELS / name)
    model = AutoModelForCausalLM.from_pretrained(train.MODELS / name, dtype=torch.float32)
    new, repeated = repeat_losses(model, train.words(tokenizer))
    assert new > 7, "random tokens cannot be known"
    assert repeated < 2


def test_models_fit_in_the_repository():
    files = [p for p in train.MODELS.rglob("*") if p.is_file()]
    assert sum(p.stat().st_size for p in files) <= 20e6


@pytest.mark.slow
def test_short_training_run(tmp_path, monkeypatch):
    monkeypatch.setitem(train.SIZES, "small", (32, 2, 64, 2, 40_000, 120_000))
    monkeypatch.setattr(train, "BATCH_TOKENS", 2048)
    shutil.copytree(train.MODELS / "tokenizer", tmp_path / "tokenizer")
    train.main(["small", "--out", str(tmp_path), "--seed", "1"])
    manifest = json.loads((tmp_path / "small" / "manifest.json").read_text())
    assert {"seed", "device", "tokens", "wall_seconds", "torch", "sha256", "world_seed", "preferences"} <= set(manifest)
    curve = [point["loss"] for point in manifest["curves"]["documents"]]
    assert curve[-1] < curve[0] - 1
    train.main(["small", "--out", str(tmp_path), "--more", "--tokens", "60000"])
    further = json.loads((tmp_path / "small" / "manifest.json").read_text())
    assert further["tokens"] == manifest["tokens"] + further["curves"]["documents, seed 2"][-1]["tokens"]
    assert further["curves"]["documents"] == manifest["curves"]["documents"]
    assert further["held_out_loss"] < manifest["held_out_loss"] - 0.05, "another round goes on from what was learned"
    assert hashlib.sha256((tmp_path / "small" / "model.safetensors").read_bytes()).hexdigest() == further["sha256"]
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "small", dtype=torch.float32)
    assert model.config.num_hidden_layers == 2
