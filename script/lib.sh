# Functions for all scripts, which source this file.
# shellcheck shell=bash

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }
die() { say "$@"; exit 1; }

# run COMMAND... shows the command, then runs it.
run() {
  printf '+ %s\n' "$*" >&2
  "$@"
}

# root_by prints the prefix that runs a command as root: nothing for root itself, otherwise sudo. It
# fails if there is no sudo.
root_by() {
  if [ "$(id -u)" = 0 ]; then
    return
  fi
  command -v sudo >/dev/null && echo sudo
}

PATH=$PATH:/usr/sbin:/sbin # Debian has mkfs.ext4 there, and a plain user's PATH lacks it

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# go_wanted is the Go version in go.mod. make setup puts a toolchain of that version at go_home.
go_wanted=$(sed -n 's/^go //p' "$repo/go.mod")
go_home=${XDG_CACHE_HOME:-${HOME:?HOME is not set}/.cache}/banger-build/go$go_wanted

# go_good GO succeeds if the go command GO builds this module: it is new enough, or (since Go 1.21)
# fetches a toolchain that is.
go_good() {
  local version
  version=$(cd "$repo" && "$1" env GOVERSION 2>/dev/null) || return 1
  version=${version#go}
  [ "$(printf '%s\n' "$go_wanted" "${version%% *}" | sort -V | head -n 1)" = "$go_wanted" ]
}

# go_find prints the path of the go command to use, or fails.
go_find() {
  local go
  for go in "$(command -v go)" "$go_home/bin/go"; do
    if [ -x "$go" ] && go_good "$go"; then
      printf '%s\n' "$go"
      return
    fi
  done
  return 1
}
