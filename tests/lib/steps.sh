# shellcheck shell=bash
# Runs steps, keeps their logs, counts their tests, prints the table at the end.
#
# A step is one command. It is given a suite, a name and a time limit; its output goes to
# target/test-logs/SUITE-NAME.log and, with BYWAY_VERBOSE=1, to standard output as well.
# Sourced by tests/run and .ci/run; expects `set -euo pipefail` and the repository root as
# the working directory.

BYWAY_LOGS="${CARGO_TARGET_DIR:-target}/test-logs"

# Totals over all steps.
total_passed=0
total_failed=0
total_skipped=0
# Lines of the table, of the failures and of what was skipped.
table_lines=()
failed_lines=()
skipped_lines=()
# Process id of the running step, for the signal handler.
step_pid=

# Seconds as people read them.
duration() {
    local seconds=$1
    if ((seconds < 60)); then
        printf '%ds' "$seconds"
    else
        printf '%dm%02ds' $((seconds / 60)) $((seconds % 60))
    fi
}

# stop_running_step: ends the step in progress with its children.
stop_running_step() {
    if [[ -n $step_pid ]]; then
        kill -TERM "$step_pid" 2>/dev/null || true
        wait "$step_pid" 2>/dev/null || true
        step_pid=
    fi
}

# run_logged LIMIT_S LOG COMMAND...: the command's exit status; 124 when it ran too long.
run_logged() {
    local limit_s=$1 log=$2
    shift 2
    mkdir -p "$(dirname "$log")"
    # In the background, so that a signal to this shell is handled at once.
    if [[ ${BYWAY_VERBOSE:-0} == 1 ]]; then
        timeout --kill-after=20 "$limit_s" "$@" </dev/null > >(tee "$log") 2>&1 &
    else
        timeout --kill-after=20 "$limit_s" "$@" </dev/null >"$log" 2>&1 &
    fi
    step_pid=$!
    local status=0
    wait "$step_pid" || status=$?
    step_pid=
    return "$status"
}

# record SUITE NAME PASSED FAILED SKIPPED SECONDS: a row of the table.
record() {
    local suite=$1 name=$2 passed=$3 failed=$4 skipped=$5 seconds=$6
    total_passed=$((total_passed + passed))
    total_failed=$((total_failed + failed))
    total_skipped=$((total_skipped + skipped))
    table_lines+=("$(printf '%-6s %-16s %7d %7d %8d %8s' \
        "$suite" "$name" "$passed" "$failed" "$skipped" "$(duration "$seconds")")")
    printf '    %d passed, %d failed, %d skipped in %s\n' \
        "$passed" "$failed" "$skipped" "$(duration "$seconds")"
}

# announce SUITE NAME COMMAND...: says what begins.
announce() {
    local suite=$1 name=$2
    shift 2
    printf '==> %s/%s: %s\n' "$suite" "$name" "$*"
}

# skip_step SUITE NAME REASON: a step that cannot run here counts as one skipped test.
skip_step() {
    local suite=$1 name=$2 reason=$3
    printf '==> %s/%s: skipped: %s\n' "$suite" "$name" "$reason"
    skipped_lines+=("$suite/$name: $reason")
    record "$suite" "$name" 0 0 1 0
}

# why_failed STATUS LIMIT_S: what an exit status says when no test has failed.
why_failed() {
    case $1 in
    124 | 137) printf 'stopped after its limit of %s' "$(duration "$2")" ;;
    *) printf 'exit status %d' "$1" ;;
    esac
}

# cargo_test_step SUITE NAME LIMIT_S COMMAND...: a command that prints what `cargo test`
# prints; each test counts. `--show-output` has to be among its arguments.
cargo_test_step() {
    local suite=$1 name=$2 limit_s=$3
    shift 3
    local log="$BYWAY_LOGS/$suite-$name.log"
    announce "$suite" "$name" "$@"
    local start=$SECONDS status=0
    run_logged "$limit_s" "$log" "$@" || status=$?

    local passed=0 failed=0 skipped=0 kind first second third
    local failures=()
    while IFS=$'\t' read -r kind first second third; do
        case $kind in
        counts) passed=$first failed=$second skipped=$third ;;
        failed) failures+=("$suite/$name: $first") ;;
        skipped) skipped_lines+=("$suite/$name: $first: $second") ;;
        esac
    done < <(awk -f tests/lib/count_tests.awk "$log")
    # A build that breaks or a step that hangs has no failed test of its own.
    if ((status != 0 && (failed == 0 || status == 124 || status == 137))); then
        failed=$((failed + 1))
        failures+=("$suite/$name: $(why_failed "$status" "$limit_s")")
    elif ((status == 0 && passed + failed + skipped == 0)); then
        failed=1
        failures+=("$suite/$name: ran no test")
    fi
    if ((failed > 0)); then
        failed_lines+=("${failures[@]}" "    log: $log")
        show_end_of "$log"
    fi
    record "$suite" "$name" "$passed" "$failed" "$skipped" $((SECONDS - start))
}

# check_step SUITE NAME LIMIT_S COMMAND...: a command that either holds or does not; it
# counts as one test.
check_step() {
    local suite=$1 name=$2 limit_s=$3
    shift 3
    local log="$BYWAY_LOGS/$suite-$name.log"
    announce "$suite" "$name" "$@"
    local start=$SECONDS status=0
    run_logged "$limit_s" "$log" "$@" || status=$?
    if ((status == 0)); then
        record "$suite" "$name" 1 0 0 $((SECONDS - start))
    else
        failed_lines+=("$suite/$name: $(why_failed "$status" "$limit_s")" "    log: $log")
        show_end_of "$log"
        record "$suite" "$name" 0 1 0 $((SECONDS - start))
    fi
    return 0
}

# show_end_of LOG: the part of a log that tells what went wrong.
show_end_of() {
    [[ ${BYWAY_VERBOSE:-0} == 1 ]] && return 0
    local from
    from=$(grep -n -m 1 -E '^(failures:|error(\[|:))' "$1" | cut -d : -f 1) || true
    if [[ -n $from ]]; then
        # Read to the end: under `pipefail` a reader that leaves early ends this run.
        tail -n "+$from" "$1" | sed -n '1,80s/^/    | /p'
    else
        tail -n 40 "$1" | sed 's/^/    | /'
    fi
}

# summary: the table, what was skipped and why, what failed, and the line that counts.
# Returns 1 when anything failed.
summary() {
    printf '\n%-6s %-16s %7s %7s %8s %8s\n' suite step passed failed skipped time
    ((${#table_lines[@]} == 0)) || printf '%s\n' "${table_lines[@]}"
    if ((${#skipped_lines[@]} > 0)); then
        printf '\nSkipped:\n'
        printf '  %s\n' "${skipped_lines[@]}"
    fi
    if ((${#failed_lines[@]} > 0)); then
        printf '\nFailed:\n'
        printf '  %s\n' "${failed_lines[@]}"
    fi
    printf '\n%d passed, %d failed, %d skipped\n' \
        "$total_passed" "$total_failed" "$total_skipped"
    ((total_failed == 0))
}
