# shellcheck shell=bash
# What this host has, and how to get what it lacks.

# need_rust: ends the script when there is no Rust toolchain.
need_rust() {
    # A shell that is not a login shell may not have read the installer's profile.
    if ! command -v cargo >/dev/null && [[ -x $HOME/.cargo/bin/cargo ]]; then
        PATH="$HOME/.cargo/bin:$PATH"
    fi
    if ! command -v cargo >/dev/null; then
        echo "error: cargo is not installed: get Rust from https://rustup.rs and run this again" >&2
        exit 2
    fi
}

# install_missing COMMAND=PACKAGE...: installs the Debian packages of commands that are not
# there, as install_packages does. What needs them is skipped when that fails, by name.
install_missing() {
    local pair missing=()
    for pair in "$@"; do
        command -v "${pair%%=*}" >/dev/null || missing+=("${pair#*=}")
    done
    ((${#missing[@]} == 0)) || install_packages "${missing[@]}"
}

# install_packages PACKAGE...: installs them if this is root on a host with apt-get; otherwise says what to install.
install_packages() {
    local missing=("$@")
    if ((EUID != 0)) || ! command -v apt-get >/dev/null; then
        echo "note: missing ${missing[*]}; as root: apt-get install ${missing[*]}" >&2
        return 0
    fi
    echo "==> installing ${missing[*]}"
    mkdir -p "$BYWAY_LOGS"
    if ! { apt_get update && apt_get install -y --no-install-recommends "${missing[@]}"; } \
        </dev/null >"$BYWAY_LOGS/apt.log" 2>&1; then
        echo "note: apt-get could not install ${missing[*]}; see $BYWAY_LOGS/apt.log" >&2
    fi
}

# How often apt is asked again that somebody else holds, and after how long.
APT_TRIES=60
APT_PAUSE_S=5

# apt_get ARGUMENTS...: apt-get, which fails at once where another one is at work: that is waited for.
apt_get() {
    local tried said status
    for ((tried = 1; ; tried++)); do
        status=0
        said=$(LC_ALL=C DEBIAN_FRONTEND=noninteractive apt-get "$@" 2>&1) || status=$?
        printf '%s\n' "$said"
        if ((status == 0 || tried >= APT_TRIES)) || [[ $said != *'Could not get lock'* ]]; then
            return "$status"
        fi
        sleep "$APT_PAUSE_S"
    done
}

# install_linker: what Rust links programs with. A compiler may be there without the C library's files, so linking is tried.
install_linker() {
    local scratch
    scratch=$(mktemp -d)
    if echo 'int main(void) { return 0; }' >"$scratch/empty.c" &&
        cc -o "$scratch/empty" "$scratch/empty.c" 2>"$scratch/log"; then
        rm -r "$scratch"
        return 0
    fi
    rm -r "$scratch"
    install_packages gcc libc6-dev
}

# kvm_lack: prints why KVM cannot be used; nothing when it can.
kvm_lack() {
    if [[ ! -e /dev/kvm ]]; then
        echo "this host has no /dev/kvm, so no virtual machine can be started"
    elif [[ ! -r /dev/kvm || ! -w /dev/kvm ]]; then
        echo "/dev/kvm is not accessible to $(id -un): add the user to the group $(stat -c %G /dev/kvm)"
    fi
}

# What AddressSanitizer's programs are built for; named, so that build scripts and macros
# are built without.
ASAN_TARGET=x86_64-unknown-linux-gnu

# asan_lack: prints why nothing can be run under AddressSanitizer; nothing when it can. Tried,
# since a toolchain may come without the runtime, and a host may forbid its address space.
asan_lack() {
    local scratch why=
    scratch=$(mktemp -d)
    if ! echo 'fn main() {}' | RUSTC_BOOTSTRAP=1 rustc -Zsanitizer=address \
        --target "$ASAN_TARGET" -o "$scratch/empty" - >"$scratch/log" 2>&1; then
        why="this Rust toolchain cannot build for AddressSanitizer: $(grep -m 1 error "$scratch/log")"
    elif ! "$scratch/empty" >"$scratch/log" 2>&1; then
        why="programs built for AddressSanitizer do not run here: $(head -n 1 "$scratch/log")"
    fi
    rm -r "$scratch"
    [[ -z $why ]] || echo "$why"
}

# fetch_lack MANIFEST: prints why the dependencies of a workspace cannot be had; nothing when
# they are here. A lock file that is out of date is no lack of the host's: the build says so.
fetch_lack() {
    local log
    if ! log=$(cargo fetch --locked --target "$ASAN_TARGET" --manifest-path "$1" 2>&1) &&
        [[ $log != *'--locked was passed'* ]]; then
        echo "the dependencies of $1 cannot be downloaded: $(grep -m 1 error <<<"$log")"
    fi
}
