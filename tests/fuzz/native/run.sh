#!/bin/sh
# Runs the native module under AddressSanitizer and UndefinedBehaviorSanitizer: its tests, then two fuzzers.
# FUZZ_SECONDS (15): run time of each fuzzer. FUZZ_SEED: its random seed.
# CC, SAMEPAGED_PYTHON: a compiler instead of cc, a Python instead of that of .venv.
set -eu

tree=$(cd "$(dirname "$0")/../.." && pwd)
cd "$tree"
python=${SAMEPAGED_PYTHON:-.venv/bin/python}
cc=${CC:-cc}
seconds=${FUZZ_SECONDS:-15}
sanitize='-g -O1 -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all'
strict='-std=c11 -Wall -Wextra -Wshadow -Wconversion -Werror'
xxhash=$(pkg-config --cflags --libs libxxhash)
include=$($python -c 'import sysconfig; print("-I" + sysconfig.get_path("include"))')

made=$(mktemp -d)
trap 'rm -rf "$made"' EXIT
trap 'exit 130' INT TERM

# A copy of the package, so that the sanitizer build never replaces the module in use.
mkdir "$made/package"
cp -R daemon/samepaged "$made/package/"
find "$made/package" -name '*.so' -exec rm {} +
memory=daemon/samepaged/memory
# shellcheck disable=SC2086  # options are many words
$cc $strict $sanitize -shared -fPIC $include $memory/_pagehash.c \
    -o "$made/package/samepaged/memory/_pagehash.abi3.so" $xxhash
# shellcheck disable=SC2086
$cc $strict $sanitize -I$memory tests/fuzz/native/fuzz_kernel.c -o "$made/fuzz_kernel" $xxhash

export ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1:abort_on_error=1 UBSAN_OPTIONS=print_stacktrace=1
# Python allocates small blocks with malloc, too, so that the sanitizer detects accesses beyond their ends.
sanitized() {
    env LD_PRELOAD="$($cc -print-file-name=libasan.so)" PYTHONMALLOC=malloc PYTHONDONTWRITEBYTECODE=1 \
        PYTHONPATH="$made/package" "$python" "$@"
}

sanitized -c '
import sys
from samepaged.memory import _pagehash
assert _pagehash.__file__.startswith(sys.argv[1]), _pagehash.__file__
assert "libasan" in open("/proc/self/maps").read()
' "$made"
sanitized -m pytest -q -p no:cacheprovider tests/unit/memory/test_hashing.py
sanitized tests/fuzz/native/fuzz_arguments.py "$seconds" ${FUZZ_SEED:+"$FUZZ_SEED"}
"$made/fuzz_kernel" "$seconds" ${FUZZ_SEED:+"$FUZZ_SEED"}
