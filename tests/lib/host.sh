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
# there, if this is root on a host with apt-get; otherwise says what to install. What needs
# them is skipped then, by name.
install_missing() {
    local pair missing=()
    for pair in "$@"; do
        command -v "${pair%%=*}" >/dev/null || missing+=("${pair#*=}")
    done
    ((${#missing[@]} > 0)) || return 0
    if ((EUID != 0)) || ! command -v apt-get >/dev/null; then
        echo "note: missing ${missing[*]}; as root: apt-get install ${missing[*]}" >&2
        return 0
    fi
    echo "==> installing ${missing[*]}"
    mkdir -p "$BYWAY_LOGS"
    if ! { DEBIAN_FRONTEND=noninteractive apt-get update &&
        DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}"; } \
        </dev/null >"$BYWAY_LOGS/apt.log" 2>&1; then
        echo "note: apt-get could not install ${missing[*]}; see $BYWAY_LOGS/apt.log" >&2
    fi
}

# kvm_lack: prints why KVM cannot be used; nothing when it can.
kvm_lack() {
    if [[ ! -e /dev/kvm ]]; then
        echo "this host has no /dev/kvm, so no virtual machine can be started"
    elif [[ ! -r /dev/kvm || ! -w /dev/kvm ]]; then
        echo "/dev/kvm is not accessible to $(id -un): add the user to the group $(stat -c %G /dev/kvm)"
    fi
}
