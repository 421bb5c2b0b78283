"""Rows by hand: the columns of tokens and drafts, and the order of guesses."""

from icdpo_nb.engine.drafting import DraftModel
from icdpo_nb.engine.rows import Row
from icdpo_nb.engine.sampling import Sampled


def row() -> Row:
    """A context of four tokens and three responses, of which the second has ended."""
    row = Row(7, [1, 2, 3, 4], [Sampled([5, 6]), Sampled([5]), Sampled([8, 9, 6])])
    row.live, row.drafts = [0, 2], [[], []]
    return row


def test_responses_take_turns_in_the_columns():
    r = row()
    assert [*r.fed()] == [(6, 0, 1, 4 + 3 * 1), (6, 2, 2, 4 + 3 * 2 + 2)], "the last token of each unfinished response"
    assert r.used == 4 + 3 * 3
    r.drafts = [[10, 11], []]
    assert [*r.fed()] == [(6, 0, 1, 7), (10, 0, 2, 10), (11, 0, 3, 13), (6, 2, 2, 12)]
    assert r.used == 4 + 3 * 4, "a draft goes further than the longer response"


def test_columns_do_not_depend_on_what_was_drafted():
    plain, drafted = row(), row()
    drafted.drafts = [[10], [11, 12]]
    places = {(j, k): column for _, j, k, column in drafted.fed()}
    for r in (plain, drafted):  # the first draft was right, the others were wrong
        r.sampled[0].ids += [10]
        r.sampled[2].ids += [0]
        r.drafts = [[], []]
    assert [*plain.fed()] == [*drafted.fed()]
    assert next(column for _, j, k, column in plain.fed() if j == 0) == places[0, 2], "the place of the right draft"


def test_guesses_are_in_order_of_their_chances():
    r, model = row(), DraftModel()
    model.read([6, 30, 31])
    assert [(place, token) for _, place, token in r.guesses(model, 9)] == [(0, 30), (1, 30), (0, 31), (1, 31)]
    assert [place for _, place, _ in r.guesses(model, 4)] == [0], "one token is left to guess for the first, none for the other"
    r.draft(r.guesses(model, 9)[:3])
    assert r.drafts == [[30, 31], [30]]


def test_history_holds_what_an_ngram_may_need():
    r = row()
    assert r.history(0) == [2, 3, 4, 5, 6]
    assert r.history(2, 1) == [2, 3, 4, 8, 9, 6]
