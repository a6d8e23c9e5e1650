#!/usr/bin/env bash
# Installs Chromium for the browser tests from Debian's packages, where it is not there yet. Called by `make setup-browser`.
#   CHROMIUM=...  a Chromium or Chrome that is there already; the tests read it too
set -euo pipefail

find_chromium() {
    for name in "${CHROMIUM:-}" chromium chromium-browser google-chrome; do
        if [ -n "$name" ] && command -v "$name"; then return; fi
    done
    return 1
}

if ! find_chromium >/dev/null; then
    if ! command -v apt-get >/dev/null; then
        echo "no Chromium, and no apt-get to install it with: install one, or name it by CHROMIUM=/path/to/chromium" >&2
        exit 1
    fi
    as_root=()
    if [ "$(id -u)" != 0 ]; then
        if ! command -v sudo >/dev/null || ! sudo -n true 2>/dev/null; then
            echo "no Chromium, and only root can install it: sudo apt-get install chromium, or name one by CHROMIUM=/path/to/chromium" >&2
            exit 1
        fi
        as_root=(sudo -n)
    fi
    log=$(mktemp)
    trap 'rm -f "$log"' EXIT
    # Lists of packages may be missing or older than what the mirror still has: read them again before a second attempt.
    install() { "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends chromium >"$log" 2>&1; }
    echo "Installing Chromium (about 100 MB) ..."
    if ! install && ! { "${as_root[@]}" apt-get update >/dev/null 2>&1; install; }; then
        echo "apt-get install chromium failed: $(grep -m 1 '^E:' "$log" || tail -n 1 "$log")" >&2
        exit 1
    fi
fi
flags=()
[ "$(id -u)" != 0 ] || flags=(--no-sandbox)
"$(find_chromium)" "${flags[@]}" --version
