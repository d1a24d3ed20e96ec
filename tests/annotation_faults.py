"""What can be wrong in the annotations of each task: where, what is put there, and what is said.

Rows are counted from 0, lines of JSON lines from 1. FILE is the annotation file.
"""

from typing import Any

DROPPED = object()
# What every file may be instead of what it should.
CONTENTS: list[tuple[str, bytes | None, str]] = [
    ("missing", None, "FILE: no such file or folder"),
    ("empty", b"", "FILE: "),
    ("page", b"<html>", "FILE: not readable as json: "),
    ("bytes", b"\xff\xfe\x80", "FILE: not readable as json: "),
    ("deep", b"[" * 100_000, "FILE: not readable as json: "),
    ("number", b"3", "FILE: expected "),
    ("null", b"null", "FILE: expected "),
    ("object", b'{"a": 1}', "FILE: expected "),
    ("torn", b'[{"image": "0.png"},', "FILE: not readable as json: "),
    ("no_rows", b"[]", "FILE: expected "),
]
DIALOG, ROUND = ("data", "dialogs", 2), ("data", "dialogs", 2, "dialog", 1)
WRONG: list[tuple[str, tuple, Any, str]] = [
    *(
        (task, path, value, f"FILE: row 2 {said}")
        for task in ("retrieval", "caption", "classification")
        for path, value, said in [
            ((2,), None, "has no 'image' path"),
            ((2,), "x", "has no 'image' path"),
            ((2, "image"), DROPPED, "has no 'image' path"),
            ((2, "image"), 3, "has no 'image' path"),
            ((2, "image"), "", "has no 'image' path"),
        ]
    ),
    *(
        (task, (2, "caption"), DROPPED, "FILE: row 2 (2.png) has no 'caption'")
        for task in ("retrieval", "classification")
    ),
    *(
        ("nlvr", path, value, f"FILE: row 2 {said}")
        for path, value, said in [
            ((2,), None, "is no statement: 'None'"),
            ((2,), [], "is no statement: '[]'"),
            ((2, "images"), DROPPED, "has no two paths in 'images'"),
            ((2, "images"), ["0.png"], "has no two paths in 'images'"),
            ((2, "images"), ["0.png", 1], "has no two paths in 'images'"),
            ((2, "sentence"), DROPPED, "(2.png, 13.png) has no 'sentence'"),
            ((2, "sentence"), 3, "(2.png, 13.png) has no 'sentence'"),
            ((2, "label"), DROPPED, "(2.png, 13.png) has a 'label' that is neither 'True' nor"),
            ((2, "label"), True, "(2.png, 13.png) has a 'label' that is neither 'True' nor"),
            ((2, "identifier"), "test-1", "has the identifier 'test-1' of row 1"),
        ]
    ),
    *(
        ("vqa", path, value, f"FILE: row 2 {said}")
        for path, value, said in [
            ((2,), 3, "is no question: '3'"),
            ((2, "image"), DROPPED, "has no 'image' path"),
            ((2, "image"), ["2.png"], "has no 'image' path"),
            ((2, "question"), DROPPED, "(2.png) has no 'question'"),
            ((2, "question"), " ", "(2.png) has no 'question'"),
            ((2, "dataset"), DROPPED, "(2.png) has no 'dataset': 'vqa' or 'vg'"),
            ((2, "dataset"), ["vqa"], "(2.png) has a 'dataset' that is neither 'vqa' nor"),
            ((2, "question_id"), DROPPED, "(2.png) has no 'question_id'"),
            ((2, "question_id"), 1.5, "(2.png) has a 'question_id' that is neither a number nor"),
            ((2, "question_id"), 1, "has the question_id 1 of row 1"),
            ((2, "answer"), "red", "(2.png) has an 'answer' that is not a list of people's texts"),
            ((2, "answer"), [], "(2.png) has an 'answer' that is not a list of people's texts"),
            ((2, "answer"), [None], "(2.png) has an 'answer' that is not a list of people's texts"),
        ]
    ),
    *(
        ("visdial", path, value, f"FILE: {said}")
        for path, value, said in [
            (
                (*DIALOG, "image"),
                3,
                "row 2 (image_id 2) has no 'image' path, and the spl",
            ),
            (("data",), DROPPED, "expected VisDial's JSON, found no 'data' with 'questions', "),
            (("data", "answers"), DROPPED, "expected VisDial's JSON, found no 'data' with"),
            (("data", "answers"), {}, "'answers' is no list of texts"),
            (("data", "answers", 3), None, "row 3 of 'answers' is no text: 'None'"),
            (("data", "dialogs"), [], "'dialogs' is no list of dialogues"),
            (DIALOG, [], "row 2 is no dialogue: '[]'"),
            ((*DIALOG, "image_id"), DROPPED, "row 2 has no 'image_id' that is a number"),
            ((*DIALOG, "image_id"), "2", "row 2 has no 'image_id' that is a number"),
            ((*DIALOG, "image_id"), 1, "row 2 has the image_id 1 of row 1"),
            ((*DIALOG, "caption"), DROPPED, "row 2 (image_id 2) has no 'caption'"),
            ((*DIALOG, "dialog"), DROPPED, "row 2 (image_id 2) has no 'dialog'"),
            (ROUND, None, "row 2 (image_id 2): round 2 is none: 'None'"),
            (
                (*ROUND, "question"),
                9,
                "row 2 (image_id 2): round 2 has no 'question' that is",
            ),
            (
                (*ROUND, "answer_options"),
                DROPPED,
                "row 2 (image_id 2): round 2 has no 'answer_o",
            ),
            (
                (*ROUND, "answer_options", 3),
                12,
                "row 2 (image_id 2): round 2 has 'answer_op",
            ),
            (
                (*ROUND, "gt_index"),
                12,
                "row 2 (image_id 2): round 2 has a 'gt_index' that",
            ),
        ]
    ),
    *(
        ("video_retrieval", path, value, f"FILE: row 2 {said}")
        for path, value, said in [
            ((2,), None, "is no video with a caption: 'None'"),
            ((2, "clip_name"), DROPPED, "has no 'video' or 'clip_name'"),
            ((2, "clip_name"), 1.5, "has no 'video' or 'clip_name'"),
            ((2, "caption"), DROPPED, "(video2) has no 'caption'"),
            ((2, "caption"), ["a", 3], "(video2) has no 'caption'"),
        ]
    ),
    *(
        ("video_qa", path, value, f"FILE: row 2 {said}")
        for path, value, said in [
            ((2,), "x", "is no question: 'x'"),
            ((2, "video_id"), DROPPED, "has no 'video' or 'video_id'"),
            ((2, "question"), DROPPED, "(2) has no 'question'"),
            ((2, "answer"), 3, "(2) has an 'answer' that is not a text"),
            ((2, "id"), 1, "has the question_id 1 of row 1"),
            ((2, "id"), [1], "(2) has a 'question_id' that is neither a number nor a text"),
        ]
    ),
]
# COCO's and NoCaps' own files.
TABLES: list[tuple[tuple, Any, str]] = [
    (("images", 2), None, "FILE: row 2 of 'images' has no 'id' and 'file_name'"),
    (("images", 2, "file_name"), DROPPED, "FILE: row 2 of 'images' has no 'id' and 'file_name'"),
    (("images", 2, "id"), [2], "FILE: row 2 of 'images' has no 'id' and 'file_name'"),
    (("images", 2, "id"), 1, "FILE: row 2 of 'images' has the id 1 of row 1"),
    (("images",), [], "FILE: row 0 of 'annotations' has no 'image_id' of one of the im"),
    (("annotations",), 3, "FILE: no list of 'annotations' beside 'images'"),
    (("annotations", 2), 3, "FILE: row 2 of 'annotations' has no 'image_id' of one of the images"),
    (("annotations", 2, "image_id"), 99, "FILE: row 2 of 'annotations' has no 'image_id' of one "),
    (("annotations", 2, "caption"), DROPPED, "FILE: row 2 of 'annotations' (image_id 2) has no 'c"),
]
# Lists beside the annotations: setting, task, its content, and what is said.
BESIDE: list[tuple[str, str, bytes | None, str]] = [
    ("answer_list", "vqa", None, "FILE: not readable as json: "),
    ("answer_list", "vqa", b"[", "FILE: not readable as json: "),
    ("answer_list", "vqa", b"{}", "FILE: expected a list of answers, found dict"),
    ("answer_list", "vqa", b'["a", "b", 3]', "FILE: row 2 is no answer: '3'"),
    ("answer_list", "video_qa", b'["a", " "]', "FILE: row 1 is no answer: ' '"),
    ("dense_annotations", "visdial", None, "FILE: not readable as json: "),
    ("dense_annotations", "visdial", b"[3]", "FILE: row 0 is no annotation: '3'"),
    (
        "dense_annotations",
        "visdial",
        b'[{"image_id": 1, "round_id": 1, "gt_relevance": [2]}]',
        "FILE: row 0 has no 'gt_relevance' with a share from 0 to 1 for each candidate",
    ),
]
