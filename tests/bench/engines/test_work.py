from __future__ import annotations

from bench.engines.work import prompts, unlike_prompts


def test_no_prompt_begins_another_one_of_its_round_or_the_next() -> None:
    (short, long) = (prompts(1000, 3, 1, length)[0] for length in (20, 30))
    assert long[:20] == short  # of one seed they do
    found = [each for seed in (3, 4) for each in unlike_prompts(1000, seed, (20, 30, 25))]
    assert [len(each) for each in found] == [20, 30, 25] * 2
    assert len({tuple(each[:8]) for each in found}) == len(found)
    assert unlike_prompts(1000, 3, [20]) == [short]  # one alone is that of the seed itself
