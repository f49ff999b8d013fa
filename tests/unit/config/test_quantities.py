from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from samepaged import formatting
from samepaged.config import quantities

# The duration of an example depends on the machine.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def read(kind: Any, value: object) -> Any:
    return TypeAdapter(kind).validate_python(value)


def refusal(kind: Any, value: object) -> str:
    with pytest.raises(ValidationError) as raised:
        read(kind, value)
    (error,) = raised.value.errors()
    return str(error["ctx"]["error"])


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("250ms", 0.25),
        ("90s", 90),
        ("15m", 900),
        ("6h", 21600),
        ("1d", 86400),
        ("365d", 31536000),
        ("1.5h", 5400),
        ("90 s", 90),
        ("0.1ms", 0.0001),
        ("90ms", 0.09),
        (90, 90),
        (0.25, 0.25),
    ],
)
def test_a_duration_is_seconds(written: object, seconds: float) -> None:
    assert read(quantities.Duration, written) == seconds


@pytest.mark.parametrize(
    "written",
    [
        "90",
        "s",
        "",
        "-5s",
        "5 minutes",
        "5M",
        "5MS",
        "1h30m",
        "1e3s",
        "٣s",
        "5s\n",
        "5µs",
        True,
        None,
        [],
        {},
        "9" * 50 + "s",
    ],
)
def test_invalid_duration_is_refused(written: object) -> None:
    message = refusal(quantities.Duration, written)
    assert "is not a duration; write a number and ms, s, m, h or d" in message


@pytest.mark.parametrize("written", [0, "0s", 0.0, -1, -(10**400), -math.inf, math.nan])
def test_duration_is_positive(written: object) -> None:
    assert "is not longer than 0; use" in refusal(quantities.Duration, written)


@pytest.mark.parametrize("written", ["366d", 1e300, math.inf, 10**400])
def test_a_duration_is_at_most_a_year(written: object) -> None:
    assert refusal(quantities.Duration, written).endswith(" is too long; use at most 365d")


def test_an_interval_is_at_least_a_second() -> None:
    assert read(quantities.Interval, "1000ms") == 1
    assert refusal(quantities.Interval, "999ms") == "'999ms' is too short; use at least 1s"


@pytest.mark.parametrize(
    ("written", "octets"),
    [
        ("512MiB", 512 * 2**20),
        ("1GiB", 2**30),
        ("4 KiB", 4096),
        ("100B", 100),
        ("2TiB", 2**41),
        ("1.5KiB", 1536),
        ("0B", 0),
        (0, 0),
        (12345, 12345),
    ],
)
def test_a_size_is_bytes(written: object, octets: int) -> None:
    assert read(quantities.Size, written) == octets


@pytest.mark.parametrize(
    "written", ["512", "512MB", "512mib", "1G", "MiB", "0.3B", "", -1.5, 1.0, math.inf, True, None, []]
)
def test_invalid_size_is_refused(written: object) -> None:
    assert "is not a size; write a number and B, KiB, MiB, GiB or TiB" in refusal(quantities.Size, written)


@pytest.mark.parametrize("written", [-1, 2**63, "99999999TiB"])
def test_a_size_is_in_range(written: object) -> None:
    assert "is out of range; use a size from 0 to" in refusal(quantities.Size, written)


@pytest.mark.parametrize("exponent", range(10, 22))
def test_page_size_is_a_power_of_two(exponent: int) -> None:
    assert read(quantities.PageSize, 2**exponent) == 2**exponent
    assert "use a power of two from 1KiB to 2MiB" in refusal(quantities.PageSize, 2**exponent + 1)


@pytest.mark.parametrize("written", [0, 1, 512, "4MiB", 2**40])
def test_page_size_out_of_range_is_refused(written: object) -> None:
    assert refusal(quantities.PageSize, written).endswith("is not a page size; use a power of two from 1KiB to 2MiB")


@pytest.mark.parametrize(
    ("written", "seed"),
    [
        (None, None),
        (0, 0),
        (2**64 - 1, 2**64 - 1),
        ("0x0", 0),
        ("0xdeadBEEF", 0xDEADBEEF),
        ("0x" + "f" * 16, 2**64 - 1),
    ],
)
def test_a_seed_has_64_bits(written: object, seed: int | None) -> None:
    assert read(quantities.Seed, written) == seed


@pytest.mark.parametrize(
    "written", [-1, 2**64, "0x", "0x" + "f" * 17, "12345678", "0xsecret", "", 1.0, True, [], "0x1\n", "0x1_2"]
)
def test_invalid_seed_is_not_quoted(written: object) -> None:
    message = refusal(quantities.Seed, written)
    assert message.startswith("is not a seed of 64 bits; use a whole number from 0 to 2**64-1")
    assert "secret" not in message


def test_a_directory_is_an_absolute_path() -> None:
    assert read(quantities.Directory, "/run/samepaged") == Path("/run/samepaged")
    assert read(quantities.Directory, Path("/run")) == Path("/run")


@pytest.mark.parametrize("written", ["run/samepaged", "", ".", "~/x", "/run/\0", 5, None])
def test_relative_directory_is_refused(written: object) -> None:
    assert refusal(quantities.Directory, written).endswith(
        "is not an absolute path; write the path of a directory that begins with /"
    )


@pytest.mark.parametrize(
    ("written", "host", "port"),
    [
        ("127.0.0.1:9953", "127.0.0.1", 9953),
        ("0.0.0.0:0", "0.0.0.0", 0),  # noqa: S104 - read, not bound
        ("localhost:65535", "localhost", 65535),
        ("kvm-1.example.org:80", "kvm-1.example.org", 80),
        ("[::]:9953", "::", 9953),
        ("[fe80::1%eth0]:9953", "fe80::1%eth0", 9953),
        ("[fe80::1%br-0.12]:9953", "fe80::1%br-0.12", 9953),
        ("kvm-1.example.org.:80", "kvm-1.example.org.", 80),
        (f"{'a' * 63}.{'b' * 63}:80", f"{'a' * 63}.{'b' * 63}", 80),
    ],
)
def test_an_address_has_a_host_and_a_port(written: str, host: str, port: int) -> None:
    assert read(quantities.Listen, written) == written
    assert quantities.address(written) == (host, port)


@pytest.mark.parametrize(
    ("written", "complaint"),
    [
        ("127.0.0.1", "is not an address; write"),
        ("127.0.0.1:", "is not an address; write"),
        ("::1:9953", 'is not an address; write "host:port", or "[address]:port" for IPv6'),
        ("", "is not an address; write"),
        ("localhost:http", "is not an address; write"),
        ("localhost:-1", "is not an address; write"),
        ("localhost:٣", "is not an address; write"),
        ("localhost:80\n", "is not an address; write"),
        (9953, "is not an address; write"),
        (None, "is not an address; write"),
        ("localhost:65536", "65536 is not a port; use 0 to 65535"),
        (":9953", "':9953' names no host; write \"0.0.0.0:9953\""),
        ("[]:9953", "is not an IP address; correct it"),
        ("[127.0.0.1]:9953", "'127.0.0.1' is not an IP address; correct it"),
        ("[localhost]:9953", "'localhost' is not an IP address; correct it"),
        ("127.0.0.256:9953", "'127.0.0.256' is not an IP address; correct it"),
        ("127.1:9953", "'127.1' is not an IP address; correct it"),
        ("a b:9953", "'a b' is not a host name; use letters"),
        ("-x:9953", "'-x' is not a host name; use letters"),
        ("a..b:9953", "'a..b' is not a host name; use letters"),
        (".a:9953", "'.a' is not a host name; use letters"),
        (f"{'a' * 64}.b:9953", "is not a host name; use letters"),
        (f"{'a.' * 127}:9953", "is not a host name; use letters"),
        ("[::1%]:9953", "'::1%' is not an IP address; correct it"),
        ("[fe80::1%a\n]:9953", r"'a\n' is not the name of a network interface; correct the part after the %"),
        ("[fe80::1%a..b]:9953", "'a..b' is not the name of a network interface; correct the part after the %"),
        (f"[fe80::1%{'a' * 16}]:9953", "is not the name of a network interface; correct the part after the %"),
    ],
)
def test_invalid_address_is_refused(written: object, complaint: str) -> None:
    assert complaint in refusal(quantities.Listen, written)


# A value of each kind, in place of ANCHOR.
READABLE: dict[object, str] = {
    quantities.Duration: "1s",
    quantities.Interval: "1s",
    quantities.Size: "1MiB",
    quantities.PageSize: "2MiB",
    quantities.Seed: "0x1",
    quantities.Directory: "/var/lib",
    quantities.Listen: "127.0.0.1:9953",
}
ANCHOR = "a value that is readable"


@pytest.mark.parametrize("kind", READABLE)
@unhurried
@given(
    value=st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.lists(st.text(), max_size=3))
)
@example(value=ANCHOR)
def test_arbitrary_quantity_is_read_or_refused(kind: object, value: object) -> None:
    try:
        read(kind, READABLE[kind] if value == ANCHOR else value)
    except ValidationError as invalid:
        assert value != ANCHOR
        (error,) = invalid.errors()
        assert re.fullmatch("[^\n\r]{1,250}; [^\n\r]{1,150}", str(error["ctx"]["error"]))


@given(st.integers(1, 999), st.sampled_from(["KiB", "MiB", "GiB", "TiB"]))
def test_formatted_size_parses_back(count: int, unit: str) -> None:
    octets = quantities.size(f"{count} {unit}")
    assert quantities.size(formatting.size(octets)) == octets


@given(st.floats(0.001, 999))
def test_formatted_seconds_parse_back(amount: float) -> None:
    assert quantities.duration(formatting.seconds(amount)) == pytest.approx(amount, rel=0.006)


@given(st.integers(1, 1_000_000))
def test_formatted_drift_parses_back(millionths: int) -> None:
    assert quantities.drift(formatting.ppm(millionths / 1_000_000)) == pytest.approx(millionths / 1_000_000)
