# Reads the output of `cargo test -- --show-output` and prints, tab-separated:
#   counts  PASSED  FAILED  SKIPPED
#   failed  NAME                      for each test that failed
#   skipped NAME    REASON            for each test that did not run
# A test that finds that the host lacks something prints "SKIPPED: reason" and returns; it
# is counted as skipped, not as passed. A test binary that died counts as one failure.

# Where a test's name comes from when two binaries have tests of the same name.
/^ +Running / { binary = $2; if (binary == "unittests") binary = $3 }
/^ +Doc-tests / { binary = "doc" }

/^test .* \.\.\. ignored/ {
    name = $0
    sub(/^test /, "", name)
    reason = name
    sub(/ \.\.\. ignored.*$/, "", name)
    if (!sub(/^.* \.\.\. ignored, /, "", reason)) reason = "ignored, no reason given"
    skip(name, reason)
}

/^test .* \.\.\. FAILED$/ {
    name = $0
    sub(/^test /, "", name)
    sub(/ \.\.\. FAILED$/, "", name)
    sub(/ - should panic$/, "", name)
    fail(name)
}

/^test result: / {
    for (i = 1; i < NF; i++) {
        if ($(i + 1) == "passed;") passed += $i
        if ($(i + 1) == "failed;") failed += $i
        if ($(i + 1) == "ignored;") skipped += $i
    }
    section = ""
}

/^---- .* stdout ----$/ {
    section = $0
    sub(/^---- /, "", section)
    sub(/ stdout ----$/, "", section)
}

# Output of a test that returned without a verdict of its own; once for each test.
/^SKIPPED: / && section != "" && !((binary, section) in told) {
    told[binary, section] = 1
    reason = $0
    sub(/^SKIPPED: /, "", reason)
    skip(section, reason)
    passed--
    skipped++
}

# Death by a signal leaves no "test result" line.
/process didn't exit successfully/ && /signal: / {
    failed++
    fail(binary ": killed by a signal")
}

END {
    print "counts\t" passed + 0 "\t" failed + 0 "\t" skipped + 0
    printf "%s", lines
}

function fail(name) { lines = lines "failed\t" name "\n" }
function skip(name, reason) { lines = lines "skipped\t" name "\t" reason "\n" }
