"""Tables of bulk commands, as they lie on the disk."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from engine.bulk import tables


def test_an_empty_array_and_a_long_one_are_arrays(tmp_path: Path) -> None:
    schema = pa.schema({"feature": pa.list_(pa.float32(), 3)})
    for count in (0, 12_345):
        path = tmp_path / f"{count}.npy"
        with tables.table(path, schema) as output:
            output.add([{"feature": [n, n + 1, n + 2]} for n in range(count)])
        found = np.load(path)
        assert found.shape == (count, 3)
        assert np.array_equal(found[:, 1], np.arange(count) + 1)
