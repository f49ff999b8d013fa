from __future__ import annotations

import pytest

from samepaged.config import parse
from samepaged.errors import ConfigError
from samepaged.yaml_document import MAX_BYTES, MAX_DEPTH, MAX_VALUES


def problems(text: str | bytes, name: str = "f") -> list[str]:
    with pytest.raises(ConfigError) as raised:
        parse(text, name)
    return list(raised.value.problems)


def problem(text: str | bytes) -> str:
    (line,) = problems(text)
    return line


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("libvirt:\n  uri: ''\n", "f:2:8: libvirt.uri: is empty; write a text"),
        ("libvirt: {uri: 5}", "f:1:16: libvirt.uri: must be a text, not 5; put it in quotes"),
        ("guests: {include: []}", "f:1:19: guests.include: is an empty list; write at least one pattern"),
        ("guests:\n  exclude:\n  - a\n  - ''", "f:4:5: guests.exclude[1]: is empty; write a text"),
        ("guests: {exclude: [null]}", "f:1:20: guests.exclude[0]: must be a text, not null; put it in quotes"),
        (
            "guests: {include: web}",
            (
                "f:1:19: guests.include: must be a list, not 'web'; "
                "write it in [ ], or a line beginning with - for each item"
            ),
        ),
        ("groups: [{match: [a]}]", "f:1:10: groups[0].name: is missing; add it"),
        ("groups:\n  - name: a", "f:2:5: groups[0].match: is missing; add it"),
        ("groups: [{name: a, match: []}]", "f:1:27: groups[0].match: is an empty list; write at least one pattern"),
        (
            "groups:\n- {name: a, match: [x]}\n- {name: a, match: [y]}",
            "f:3:10: groups[1].name: 'a' is the name of an earlier group; give each group a unique name",
        ),
        (
            f"groups: [{{name: {'x' * 129}, match: [a]}}]",
            "f:1:17: groups[0].name: has 129 characters; use at most 128",
        ),
        (
            'groups: [{name: "a\\tb", match: [a]}]',
            (
                "f:1:17: groups[0].name: 'a\\tb' has a space at its end, or a character that cannot be printed; "
                "remove it"
            ),
        ),
        (
            "groups: [{name: 'a ', match: [a]}]",
            "f:1:17: groups[0].name: 'a ' has a space at its end, or a character that cannot be printed; remove it",
        ),
        (
            "grouping: {metadata: [nova]}",
            "f:1:23: grouping.metadata[0]: 'nova' is not a valid value; use 'openstack', 'kubevirt' or 'samepaged'",
        ),
        (
            "grouping: {metadata: openstack}",
            (
                "f:1:22: grouping.metadata: must be a list, not 'openstack'; "
                "write it in [ ], or a line beginning with - for each item"
            ),
        ),
        (
            "grouping: {metadata: [kubevirt, openstack, kubevirt]}",
            "f:1:22: grouping.metadata: lists a source twice; list each once",
        ),
        (
            "grouping: {names: ['web-*']}",
            (
                "f:1:20: grouping.names[0]: 'web-*' does not contain {group} exactly once; "
                'write a template such as "{group}-*"'
            ),
        ),
        (
            "grouping: {names: ['{group}-{group}']}",
            (
                "f:1:20: grouping.names[0]: '{group}-{group}' does not contain {group} exactly once; "
                'write a template such as "{group}-*"'
            ),
        ),
        (
            "grouping: {names: ['{tenant}-{group}']}",
            (
                "f:1:20: grouping.names[0]: '{tenant}-{group}' contains {: only {group} and * stand for other text; "
                'write a template such as "{group}-*"'
            ),
        ),
        (
            "grouping: {names: ['*-{group}-*']}",
            "f:1:20: grouping.names[0]: '*-{group}-*' has more than one *; write a template such as \"{group}-*\"",
        ),
        (
            "grouping: {names: ['{group}*']}",
            ("f:1:20: grouping.names[0]: '{group}*' does not delimit the group; put a text between {group} and the *"),
        ),
        (
            "grouping: {names: [5]}",
            "f:1:20: grouping.names[0]: must be a text, not 5; put it in quotes",
        ),
        ("scan: {interval: 10ms}", "f:1:18: scan.interval: '10ms' is too short; use at least 1s"),
        ("scan: {jitter: 1.5}", "f:1:16: scan.jitter: 1.5 is too large; use at most 1.0"),
        ("scan: {jitter: -1}", "f:1:16: scan.jitter: -1 is too small; use at least 0.0"),
        ("scan: {jitter: '0.5'}", "f:1:16: scan.jitter: must be a number, not '0.5'; write digits without quotes"),
        ("scan: {jitter: true}", "f:1:16: scan.jitter: must be a number, not true; write digits without quotes"),
        (
            "scan: {mode: Live}",
            "f:1:14: scan.mode: 'Live' is not a valid value; use 'auto', 'snapshot', 'precopy', 'sliced' or 'live'",
        ),
        (
            "scan: {reader: [dump]}",
            "f:1:16: scan.reader: ['dump'] is not a valid value; use 'auto', 'process' or 'dump'",
        ),
        (
            "scan: {max_pause: 0}",
            "f:1:19: scan.max_pause: 0 is not longer than 0; use a duration such as 250ms or 15m",
        ),
        ("scan: {max_duty: 0}", "f:1:18: scan.max_duty: 0 is too small; use a number above 0.0"),
        ("scan: {max_duty: 2}", "f:1:18: scan.max_duty: 2 is too large; use at most 1.0"),
        (
            "scan: {max_drift: 0}",
            "f:1:19: scan.max_drift: 0 is out of range; use a drift above 0ppm, to 1000000ppm (a ratio of 1)",
        ),
        (
            "scan: {max_drift: 500}",
            "f:1:19: scan.max_drift: 500 is out of range; use a drift above 0ppm, to 1000000ppm (a ratio of 1)",
        ),
        (
            "scan: {max_drift: 5ms}",
            "f:1:19: scan.max_drift: '5ms' is not a drift; write a number and ppm, such as 500ppm, or a ratio",
        ),
        ("scan: {sync_clock: ntp}", "f:1:20: scan.sync_clock: 'ntp' is not a valid value; use 'none' or 'agent'"),
        ("scan: {threads: 0}", "f:1:17: scan.threads: 0 is too small; use at least 1"),
        ("scan: {threads: 1025}", "f:1:17: scan.threads: 1025 is too large; use at most 1024"),
        ("scan: {threads: 2.0}", "f:1:17: scan.threads: must be a whole number, not 2.0; write digits without quotes"),
        (
            "scan: {memory_limit: 1GB}",
            (
                "f:1:22: scan.memory_limit: '1GB' is not a size; "
                "write a number and B, KiB, MiB, GiB or TiB, such as 512MiB, or a whole number of bytes"
            ),
        ),
        (
            "scan: {still_ksm: yes}",
            "f:1:19: scan.still_ksm: must be true or false, not 'yes'; write one of the two",
        ),
        ("scan: {still_ksm: 1}", "f:1:19: scan.still_ksm: must be true or false, not 1; write one of the two"),
        (
            "scan: {page_sizes: [2MiB, 4MiB]}",
            "f:1:27: scan.page_sizes[1]: '4MiB' is not a page size; use a power of two from 1KiB to 2MiB",
        ),
        (
            "scan: {page_sizes: [2MiB, 2048KiB]}",
            "f:1:20: scan.page_sizes: lists a page size twice; list each once",
        ),
        (f"guests: {{exclude: [{'x' * 1001}]}}", "f:1:20: guests.exclude[0]: has 1001 characters; use at most 1000"),
        ("scan: {verify_every: -1}", "f:1:22: scan.verify_every: -1 is too small; use at least 0"),
        ("scan: {verify_pages: 0}", "f:1:22: scan.verify_pages: 0 is too small; use at least 1"),
        (
            "hashing: {seed: 18446744073709551616}",
            (
                "f:1:17: hashing.seed: is not a seed of 64 bits; "
                'use a whole number from 0 to 2**64-1, "0x" and up to 16 hexadecimal digits, or null'
            ),
        ),
        (
            "state_directory: state",
            (
                "f:1:18: state_directory: 'state' is not an absolute path; "
                "write the path of a directory that begins with /"
            ),
        ),
        (
            "runtime_directory: null",
            "f:1:20: runtime_directory: null is not an absolute path; write the path of a directory that begins with /",
        ),
        (
            "export: {listen: 'localhost:99999'}",
            "f:1:18: export.listen: 99999 is not a port; use 0 to 65535; 0 takes any free port",
        ),
        ("export: {pairs: 1001}", "f:1:17: export.pairs: 1001 is too large; use at most 1000"),
        (
            "log: {level: INFO}",
            "f:1:14: log.level: 'INFO' is not a valid value; use 'debug', 'info', 'warning' or 'error'",
        ),
        ("log: info", "f:1:6: log: must be a mapping, not 'info'; write its keys below it, or leave it out"),
        ("log:\nscan: {}", "f:1:5: log: must be a mapping, not null; write its keys below it, or leave it out"),
        ("groups: [5]", "f:1:10: groups[0]: must be a mapping, not 5; write its keys below it, or leave it out"),
    ],
)
def test_invalid_value_has_position_and_remedy(text: str, line: str) -> None:
    assert problem(text) == line


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("scan:\n  max_pauze: 5\n", "f:2:3: scan.max_pauze: unknown key; did you mean max_pause?"),
        ("scann: {}", "f:1:1: scann: unknown key; did you mean scan?"),
        ("groups: [{name: a, match: [b], nane: c}]", "f:1:32: groups[0].nane: unknown key; did you mean name?"),
        ("max_pause: 1s", "f:1:1: max_pause: unknown key here; did you mean scan.max_pause?"),
        ("log: {xyzzy: 1}", "f:1:7: log.xyzzy: unknown key; remove it, or use one of level"),
        ("log: {'a\\nb': 1}", "f:1:7: log.'a\\\\nb': unknown key; remove it, or use one of level"),
        ('log: {"a\\nb": 1}', "f:1:7: log.'a\\nb': unknown key; remove it, or use one of level"),
        ("log: {5: 1}", "f:1:7: log.5: unknown key; remove it, or use one of level"),
        ("log: {<<: {level: info}}", "f:1:7: log.'<<': unknown key; remove it, or use one of level"),
    ],
)
def test_unknown_key_suggests_the_nearest(text: str, line: str) -> None:
    assert problem(text) == line


def test_all_problems_are_reported_in_order() -> None:
    text = """\
scan:
  mode: foo
  jitter: 0.1
  jitter: 0.2
groups:
  - name: a
    match: &names ["*"]
  - name: a
    match: *names
    extra: 1
  - name: b
guests: !!set {a}
bogus: 1
log: {level: loud}
"""
    assert [line.split(": ")[0:2] for line in problems(text)] == [
        ["f:2:9", "scan.mode"],
        ["f:4:3", "scan.jitter"],
        ["f:8:11", "groups[1].name"],
        ["f:9:12", "groups[1].match"],
        ["f:10:5", "groups[1].extra"],
        ["f:11:5", "groups[2].match"],
        ["f:12:9", "guests"],
        ["f:13:1", "bogus"],
        ["f:14:14", "log.level"],
    ]


def test_duplicate_key_names_the_first_line() -> None:
    assert problem("log: {}\nscan: {}\nlog: {level: info}\n") == (
        "f:3:1: log: is a duplicate of the key in line 1; keep one of the two"
    )


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "f:1:1: is empty; write {} for the defaults"),
        ("# only a comment\n", "f:1:1: is empty; write {} for the defaults"),
        ("\n- scan\n", "f:2:1: ['scan'] is not a mapping; write lines of the form key: value"),
        ("scan", "f:1:1: 'scan' is not a mapping; write lines of the form key: value"),
        ("null", "f:1:1: null is not a mapping; write lines of the form key: value"),
        (
            "{}\n---\n{}",
            (
                "f:2:1: is not YAML: expected a single document in the stream, but found another document; "
                "keep one document in a file"
            ),
        ),
        (
            "guests:\n\tinclude: []",
            (
                "f:2:1: is not YAML: while scanning for the next token, "
                "found character '\\t' that cannot start any token; "
                "indent with spaces"
            ),
        ),
        (
            "guests:\n  include: [*]",
            (
                "f:2:14: is not YAML: while scanning an alias, "
                "expected alphabetic or numeric character, but found ']'; "
                'put a pattern in quotes, such as "*"'
            ),
        ),
        (
            "guests:\n  include:\n  - *web\n",
            "f:3:5: guests.include[0]: '*web' is an alias; write the value itself, or a pattern in quotes",
        ),
        ("*x", "f:1:1: '*x' is an alias; write the value itself, or a pattern in quotes"),
        (
            "guests: {exclude: [!web ]}",
            (
                "f:1:20: guests.exclude[0]: the tag '!web' is not taken; "
                "remove it, or put a value that begins with ! in quotes"
            ),
        ),
        (
            "scan: !!python/object/apply:os.system [id]",
            (
                "f:1:7: scan: the tag 'tag:yaml.org,2002:python/object/apply:os.system' is not taken; "
                "remove it, or put a value that begins with ! in quotes"
            ),
        ),
        (
            "guests: {exclude: [!web]}",
            (
                "f:1:25: is not YAML: while scanning a tag, expected ' ', but found '}'; "
                "put a value that begins with ! in quotes"
            ),
        ),
        ("{? [a] : b}", "f:1:4: has a key that is not a text; write keys as plain words"),
        (
            'libvirt: {uri: "\\ud800"}',
            (
                "f:1:16: libvirt.uri: '\\ud800' holds half a character; "
                "write \\U and eight digits for a character above U+FFFF"
            ),
        ),
        ('libvirt:\n  uri: "\\U00110000"', "f:2:11: is not YAML: a number is out of range; correct it"),
        (f"%YAML {'1' * 5000}.1\n---\n{{}}", "f:1:7: is not YAML: a number is out of range; correct it"),
        ("scan: {}\nlog: \0", "f:2:6: the character U+0000 is not allowed; remove it"),
        ("scan: {}\r\nlog: \ud800", "f:2:6: the character U+D800 is not allowed; remove it"),
        (b"scan: {}\n# \xc3\xa9 \xff", "f:2:5: the byte 0xff is not UTF-8; save the file as UTF-8"),
        ("scan: {}".encode("utf-16"), "f:1:1: the byte 0xff is not UTF-8; save the file as UTF-8"),
        (b"\xef\xbb\xbfscam: {}", "f:1:1: scam: unknown key; did you mean scan?"),
    ],
)
def test_invalid_document_has_a_position(text: str | bytes, line: str) -> None:
    assert problem(text) == line


@pytest.mark.parametrize(
    "text", ["scan: {mode: auto", "scan: [", "a: b: c", "export: {listen: [::1]:9953}", "'", "a\nb: c", "@"]
)
def test_broken_yaml_is_one_problem(text: str) -> None:
    line = problem(text)
    assert ": is not YAML: " in line
    assert "; check the indentation" in line


@pytest.mark.parametrize("opening", ["[", "{a: ", "- ", "? ", "[{"])
def test_nesting_is_bounded(opening: str) -> None:
    assert f"is nested more than {MAX_DEPTH} deep; remove some levels" in problem(opening * 100_000)


def test_aliases_are_refused() -> None:
    bomb = "a: &a [x]\n" + "".join(
        f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    )
    lines = problems(bomb)
    assert len([line for line in lines if "is an alias" in line]) == 8 * 9
    assert len(lines) == 8 * 9 + 9


def test_file_size_and_values_are_bounded() -> None:
    assert parse("{} #" + "x" * (MAX_BYTES - 4), "f")
    assert problem("{} #" + "x" * (MAX_BYTES - 3)) == f"f:1:1: is larger than {MAX_BYTES} bytes; shorten it"
    assert problem("{} #" + "é" * (MAX_BYTES // 2)) == f"f:1:1: is larger than {MAX_BYTES} bytes; shorten it"
    assert f"holds more than {MAX_VALUES} keys and values; shorten it" in problem("[" + "a," * MAX_VALUES + "]")


def test_multiline_name_is_shown_in_one_line() -> None:
    assert problems("a b", "x\ny\udcff") == [
        "x\\ny\\udcff:1:1: 'a b' is not a mapping; write lines of the form key: value"
    ]


def test_a_long_value_is_cut_in_the_message() -> None:
    line = problem(f"log: {{level: {'x' * 500_000}}}")
    assert line.startswith("f:1:14: log.level: 'xxxx")
    assert len(line) < 200


def test_yaml_1_1_words_are_text() -> None:
    config = parse("guests: {exclude: [no, off, 1:30, 2024-01-01, 0777, 1_000, .inf, 12e45, 0o17]}", "f")
    assert config.guests.exclude == ("no", "off", "1:30", "2024-01-01", "0777", "1_000", ".inf", "12e45", "0o17")


def test_numbers_are_read_as_they_are_written() -> None:
    config = parse("hashing: {seed: 0xFF}\nscan: {jitter: 5.0e-1, max_duty: .5, interval: 1.5e+3, max_pause: 1}", "f")
    assert (config.hashing.seed, config.scan.jitter, config.scan.max_duty) == (255, 0.5, 0.5)
    assert (config.scan.interval, config.scan.max_pause) == (1500, 1)
