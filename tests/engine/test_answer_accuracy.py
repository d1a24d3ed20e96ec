"""The accuracy of visual question answering: its normalisation, and leaving one person out."""

import pytest

from engine.evaluation.answer_accuracy import answer_accuracy, mean_accuracy, normalised


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Yes", "yes"),
        (" the\tred \n one ", "red 1"),
        ("A an THE", ""),
        ("none", "0"),
        ("Ten.", "10"),
        ("twenty", "twenty"),
        ("3.5 m.", "3.5 m"),
        ("U.S.A.", "usa"),
        ("2,000", "2000"),
        ("2,000 and/or more", "2000 andor more"),
        ("red/white", "red white"),
        ("red , white", "red white"),
        ("t-shirt", "t shirt"),
        ("8:30", "8:30"),
        ("yes!", "yes"),
        ("dont", "don't"),
        ("couldnt've", "couldn't've"),
        ("couldn'tve", "couldn't've"),
        ("yalld've", "yalld've"),
        ("its", "its"),
        ("oclock", "o'clock"),
        ("men's", "men's"),
    ],
)
def test_answers_are_normalised_by_the_published_rules(answer: str, expected: str) -> None:
    assert normalised(answer) == expected
    assert normalised(expected) == expected


@pytest.mark.parametrize(
    ("matches", "accuracy"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)]
)
def test_one_person_is_left_out_in_every_way(matches: int, accuracy: float) -> None:
    human = ["Yes."] * matches + ["no"] * (10 - matches)
    assert answer_accuracy("the yes", human) == pytest.approx(accuracy)
    subsets = [human[:n] + human[n + 1 :] for n in range(10)]
    counted = [sum(normalised(one) == "yes" for one in subset) for subset in subsets]
    assert accuracy == pytest.approx(sum(min(1, count / 3) for count in counted) / 10)


@pytest.mark.parametrize(
    ("people", "matches", "accuracy"),
    [
        (1, 1, 1),
        (1, 0, 0),
        (2, 2, 1),
        (2, 1, 0.5),
        (3, 3, 1),
        (3, 1, 1 / 3),
        (4, 4, 1),
        (4, 1, 0.25),
    ],
)
def test_of_few_people_all_that_are_left_must_match(
    people: int, matches: int, accuracy: float
) -> None:
    human = ["red"] * matches + ["no"] * (people - matches)
    assert answer_accuracy("red", human) == pytest.approx(accuracy)


def test_questions_count_alike() -> None:
    human = [["red"] * 10, ["blue"] * 3 + ["green"] * 7]
    assert mean_accuracy(["red", "blue"], human) == pytest.approx(0.95)
