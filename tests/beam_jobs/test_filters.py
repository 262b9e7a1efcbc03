import numpy as np
import pyarrow as pa
import pytest

from beam_jobs import filters
from beam_jobs.errors import DataError, SpecError

COLUMNS = {"age": "DOUBLE", "name": "VARCHAR", "odd name": "BIGINT", "day": "DATE"}


def evaluated(expressions, block, where="x") -> list[pa.Array]:
    is_alive = np.ones(block.num_rows, bool)
    sqls = [filters.Sql(*expression) for expression in expressions]
    return list(filters.evaluate(sqls, block, is_alive, where))


@pytest.mark.parametrize(
    "expression, columns",
    [
        ("age > 3 AND name LIKE 'a%'", {"age", "name"}),
        ("AGE BETWEEN 1 AND 2", {"age"}),
        ("age > 3 -- name", {"age"}),
        ('"odd name" = 1', {"odd name"}),
        ("TRY_CAST(name AS INT) > 1 OR age IS NULL", {"age", "name"}),
        ("'age' = name", {"name"}),
        ("name.upper() = 'A'", {"name"}),
        ("len(list_filter([1, 2], lambda n: n > age)) = 1", {"age"}),
        ("age(DATE '2000-01-01', DATE '1999-01-01') > INTERVAL 1 DAY", set()),
        ("true", set()),
        ("repeat(name, 2) = 'aa' AND range(3) IS NOT NULL", {"name"}),
        ("split_part(name, ' ', 1) = 'a' AND list_sum([age]) > 0", {"age", "name"}),
    ],
)
def test_columns_that_an_expression_reads(expression, columns):
    assert filters.used_columns(expression, COLUMNS, "filter 'x'") == columns


@pytest.mark.parametrize(
    "expression, message",
    [
        ("agee > 3", "there is no column 'agee'\\. The columns are age, name, odd name, day\\.$"),
        ("age >", "not SQL: syntax error"),
        ("age = 1; SELECT 2", "not SQL: syntax error"),
        ("1) FROM block; DROP TABLE block; SELECT (1", "not SQL: "),
        ("1) FROM range(3) WHERE (1=1", "must be one SQL expression, but is '1\\)"),
        ("1), (2", "must be one SQL expression"),
        ("count(*) > 1", r"looks at many records\. A condition speaks of one"),
        ("max(age) > 1", r"max\(\) looks at many records"),
        ("(SELECT 1) = 1", "a subquery is not allowed"),
        ("age > avg(age) OVER ()", "a window is not allowed"),
        ("*", "a star is not allowed"),
        ("? > 1", "a parameter is not allowed"),
        ("random() > 0.5", r"random\(\) gives another answer each time"),
        ("now() > DATE '2020-01-01'", r"now\(\) gives another answer each time"),
        ("current_date > DATE '2020-01-01'", "there is no column 'current_date'"),
        ("Current_Timestamp IS NULL", "there is no column 'Current_Timestamp'"),
        ("localtimestamp IS NULL", "there is no column 'localtimestamp'"),
        ("current_localtimestamp() IS NULL", r"current_localtimestamp\(\) gives another answer"),
        ("ago(INTERVAL 1 DAY) IS NULL", r"ago\(\) gives another answer each time"),
        ("age(TIMESTAMP '2020-01-01') IS NULL", r"age\(\) of one argument gives another answer"),
        ("user = name", "there is no column 'user'"),
        ("#1 > 3", r"a positional_reference is not allowed"),
        ("block IS NULL", "there is no column 'block'"),
        ("block.age > 3", "there is no column 'block.age'"),
        ("rowid > 3", "there is no column 'rowid'"),
        ("geomean(age) > 3", r"geomean\(\) looks at many records"),
        ("geometric_mean(age) > 3", r"geometric_mean\(\) looks at many records"),
        ("wavg(age, 1) > 3", r"wavg\(\) looks at many records"),
        ("json_group_structure(age) IS NULL", r"json_group_structure\(\) looks at many records"),
        ("regexp_split_to_table(name, ' ') = 'a'", r"regexp_split_to_table\(\) looks at many"),
        ("generate_subscripts([1], 1) = 1", r"generate_subscripts\(\) looks at many records"),
        ("unnest([1, 2]) = 1", r"unnest\(\) looks at many records"),
        ("pg_postmaster_start_time() IS NULL", r"pg_postmaster_start_time\(\) gives another"),
        ("pg_sleep(1) IS NULL", r"pg_sleep\(\) gives another answer each time"),
        ("[true]", r"must be BOOLEAN, but is BOOLEAN\[\]\. Compare or cast it\."),
        ("'abc'", "Could not convert string 'abc' to BOOL"),
        ("day", r"must be BOOLEAN, but is DATE\. Compare or cast it\."),
    ],
)
def test_no_condition_on_one_record(expression, message):
    with pytest.raises(SpecError, match=message) as caught:
        filters.used_columns(expression, COLUMNS, "filter 'x'")
    assert str(caught.value).startswith("filter 'x': ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("expression", ["read_text('{}') = name", "getenv('HOME') = name"])
def test_the_outside_is_out_of_reach(tmp_path, expression):
    secret = tmp_path / "secret.txt"
    secret.write_text("a")
    with pytest.raises(SpecError):
        filters.used_columns(expression.format(secret), COLUMNS, "filter 'x'")


def test_columns_that_differ_by_case_only():
    with pytest.raises(SpecError, match="two columns are called 'a' but for case"):
        filters.used_columns("a > 1", {"a": "DOUBLE", "A": "DOUBLE"}, "filter 'x'")
    others = {"a": "DOUBLE", "A": "DOUBLE", "b": "DOUBLE"}
    assert filters.used_columns("b > 1", others, "filter 'x'") == {"b"}


def test_sql_folds_the_case_of_ascii_alone():
    columns = {"stra\xdfe": "DOUBLE", "STRASSE": "VARCHAR", "\xe9t\xe9": "DOUBLE", "": "VARCHAR"}
    used = filters.used_columns("strasse > 'a' AND stra\xdfe > 1", columns, "filter 'x'")
    assert used == {"stra\xdfe", "STRASSE"}
    block = pa.record_batch({"stra\xdfe": [1.0, 2.0], "STRASSE": ["a", "b"]})
    [found] = evaluated([("stra\xdfe > 1 AND strasse = 'b'", "BOOLEAN")], block)
    assert found.to_pylist() == [False, True]
    with pytest.raises(SpecError, match="there is no column '\xc9T\xc9'"):
        filters.used_columns("\xc9T\xc9 > 1", columns, "filter 'x'")


def test_values_are_sqls_three():
    block = pa.record_batch({"age": [1.0, None, 4.0], "name": ["1", "2", None]})
    found = evaluated([("age > 3", "BOOLEAN"), ("name || '!'", "VARCHAR")], block)
    assert [column.to_pylist() for column in found] == [[False, None, True], ["1!", "2!", None]]
    assert evaluated([], block) == []


def test_the_order_of_many_records_is_kept():
    numbers = list(range(10_000))[::-1]
    [found] = evaluated([("n * 2", "BIGINT")], pa.record_batch({"n": numbers}))
    assert found.to_pylist() == [2 * number for number in numbers]


def test_a_cast_that_fails_names_the_place():
    block = pa.record_batch({"name": ["1", "q"]})
    with pytest.raises(DataError, match=r"^x\.csv: .*'q'.* Use TRY_CAST, or filter it out\.$"):
        evaluated([("CAST(name AS INT)", "BIGINT")], block, "x.csv")
