# shellcheck shell=sh disable=SC2154
# Sourced by the commands in this directory with $self = the calling script, symlinks resolved.
# Sets root and venv, and makes sure that the set-up is there and up to date. That check runs before
# every command, so it starts no Python.

unset CDPATH
root=$(cd -P -- "$(dirname -- "$self")/.." && pwd -P)
venv=$root/.venv

say() { printf '%s: %s\n' "${self##*/}" "$*" >&2; }

fail() {
    say "$*"
    exit 1
}

# The file at the end of a chain of symlinks.
resolve() {
    file=$1
    while [ -L "$file" ]; do
        link=$(readlink "$file")
        case $link in /*) file=$link ;; *) file=$(dirname -- "$file")/$link ;; esac
    done
    printf '%s\n' "$file"
}

# Where this clone is and which interpreter its .venv stands on: a .venv outlives neither a move of the
# clone nor an upgrade of the system's Python in place.
place() { printf '%s\n' "$root" "$(resolve "$venv/bin/python")"; }

# What a finished set-up notes.
stamp() {
    place
    cat "$root/setup.cfg" "$root/constraints.txt" "$root/bin/setup" | cksum
}

# fresh PART: is this part (base or embeddings) of the set-up up to date?
fresh() {
    [ -x "$venv/bin/python" ] && [ -f "$venv/.setup-$1" ] && [ "$(stamp)" = "$(cat "$venv/.setup-$1")" ]
}

# ready PART: returns once it is.
ready() {
    case $1 in
        base) fresh base || "$root/bin/setup" ;;
        *) { fresh base && fresh "$1"; } || "$root/bin/setup" --with "$1" ;;
    esac
}

# The installed command with these arguments and this clone's settings, in place of this process.
wrk() {
    WRK_CONFIG=${WRK_CONFIG:-$root/config}
    export WRK_CONFIG
    exec "$venv/bin/wrk" "$@"
}
