import pyarrow as pa

from beam_jobs.config import Source
from beam_jobs.sources import beam_files
from beam_jobs.sources.arrow_files import SOURCE
from beam_jobs.sources.listing import File


def test_files_may_lack_columns_and_their_records_have_no_place(tmp_path):
    files, scanned = [], []
    source = Source(format="beam", transform="made:here")
    for name, columns in (("1", {"b": ["x", None], "a": [b"1", b"\xff"]}), ("2", {"c": ["y"]})):
        batch = pa.record_batch(columns)
        with pa.ipc.new_file(
            tmp_path / name, batch.schema.with_metadata({SOURCE: b"made:here"})
        ) as file:
            file.write_batch(batch)
            file.write_batch(batch)
        files.append(File(str(tmp_path / name), name, 1, 0))
        scanned.append(beam_files.scan(files[-1], source, 1 << 20))
    assert list(beam_files.columns(files, source)) == [("a", "b"), ("a", "b", "c")]
    units = beam_files.units(scanned)
    assert [unit.columns for unit in units] == [("a", "b", "c")] * 4
    read = [found for unit in units for found in beam_files.read(unit, source)]
    one = [{"a": b"1", "b": "x", "c": None}, {"a": b"\xff", "b": None, "c": None}]
    other = [{"a": None, "b": None, "c": "y"}]
    assert [found.values.to_pylist() for found in read] == [one, one, other, other]
    assert [found.said_places([0]).to_pylist() for found in read] == [[None]] * 4
    assert {found.file(0).path for found in read} == {"made:here"}
