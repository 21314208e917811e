#!/usr/bin/env bash
# Breaks each guarantee on purpose, one patch at a time, and runs the tests that are to notice.
#
#   mutants/run.sh [PATCH...]      all of mutants/*.patch when none is named
#   mutants/run.sh --check         whether all of them still apply; nothing is built
#
# A patch begins with two lines: what it breaks, and the test command that must fail. One that no longer applies is a
# failure: the guard it was aimed at has moved, and nobody knows whether it is still tested. So is one whose test never ends.
set -euo pipefail
cd "$(dirname "$0")/.."
check=
[[ ${1-} != --check ]] || { check=1; shift; }
patches=("$@")
((${#patches[@]})) || patches=(mutants/*.patch)

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
git ls-files -z --cached --others --exclude-standard | xargs -0 cp --parents --no-dereference -t "$work"
export CARGO_TARGET_DIR=$PWD/target/mutants TESTBED_TOOLS=$PWD/.tools/bin
if [[ ! $check ]]; then
  # Two runs that build into one folder would test each other's faults.
  mkdir -p "$CARGO_TARGET_DIR"
  exec 8>"$CARGO_TARGET_DIR/.in-use"
  flock --nonblock 8 || { echo "waiting for another run in this checkout" >&2; flock 8; }
fi

# Runs a command for at most a quarter of an hour. In the background, as timeout puts it out of reach of Ctrl-C.
child=
trap '[[ -z $child ]] || kill "$child"; exit 130' INT TERM
tried() {
  env --chdir "$work" timeout --kill-after 30 900 bash -c "$1" >"$work/log" 2>&1 8>&- &
  child=$!
  local status=0
  wait "$child" || status=$?
  child=
  return "$status"
}

killed=0
for patch in "${patches[@]}"; do
  name=$(basename "$patch" .patch)
  breaks=$(sed -n '1s/^breaks: //p' "$patch")
  command=$(sed -n '2s/^killed by: //p' "$patch")
  if [[ -z $breaks || -z $command ]]; then
    echo "INVALID   $name: its first two lines must be 'breaks: ...' and 'killed by: ...'"
  elif ! patch --dir "$work" --strip 1 --forward --fuzz 0 --quiet --dry-run <"$patch" >/dev/null; then
    echo "STALE     $name: no longer applies"
  elif [[ $check ]]; then
    killed=$((killed + 1))
  else
    patch --dir "$work" --strip 1 --forward --fuzz 0 --quiet <"$patch"
    # What does not even compile proves nothing about the tests.
    if ! (cd "$work" && eval "$command --no-run") >"$work/log" 2>&1 8>&-; then
      echo "INVALID   $name: does not compile"
      tail -n 20 "$work/log"
    elif tried "$command"; then
      echo "SURVIVED  $name: $breaks"
    elif [[ $? == 124 || $? == 137 ]]; then
      # Nobody waits for a test that never ends; it has to say what is wrong.
      echo "HANGS     $name: $breaks"
    else
      killed=$((killed + 1))
      echo "killed    $name: $breaks"
    fi
    patch --dir "$work" --strip 1 --reverse --quiet <"$patch"
  fi
done
if [[ $check ]]; then echo "mutants: $killed of ${#patches[@]} apply"; else echo "killed $killed of ${#patches[@]}"; fi
((killed == ${#patches[@]}))
