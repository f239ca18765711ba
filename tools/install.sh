#!/usr/bin/env bash
# Installs what is missing: `install.sh build` for the binary, `install.sh test` also for the tests. Quick when nothing is missing.
set -euo pipefail
cd "$(dirname "$0")/.."
what=${1:-build}

# Reasons and versions: docs/dependencies.md.
packages=(cmake ninja-build g++ make ccache curl python3 python3-venv libgtest-dev nlohmann-json3-dev
          libssl-dev zlib1g-dev libgrpc++-dev libprotobuf-dev protobuf-compiler protobuf-compiler-grpc pkg-config)
if [ "$what" = test ]; then packages+=(clang-16 libclang-rt-16-dev chromium g++-aarch64-linux-gnu); fi

missing=()
for package in "${packages[@]}"; do
  dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
  sudo=""
  if [ "$(id -u)" != 0 ]; then sudo=sudo; fi
  echo "install: apt packages ${missing[*]}"
  export DEBIAN_FRONTEND=noninteractive
  for attempt in 1 2 3; do
    if $sudo apt-get update -qq && $sudo apt-get install -y -qq --no-install-recommends "${missing[@]}" >build-install.log 2>&1; then
      rm -f build-install.log
      break
    fi
    if [ "$attempt" = 3 ]; then
      cat build-install.log >&2 || true
      echo "install: apt-get could not install ${missing[*]}; install them by hand and run the command again" >&2
      exit 1
    fi
    sleep 5
  done
fi

if ! command -v cargo >/dev/null; then
  echo "install: cargo is missing; the tokenizer library needs Rust 1.80 or later (rustup, or apt-get install cargo)" >&2
  exit 1
fi

# Python is used by the demo's download and by tests only; the binary needs none.
requirements=tools/requirements-$what.txt
stamp=build/venv/.$(sha256sum "$requirements" | cut -c1-16)
if [ ! -f "$stamp" ]; then
  mkdir -p build
  [ -x build/venv/bin/python ] || python3 -m venv build/venv
  for attempt in 1 2 3; do
    if build/venv/bin/pip install -q --disable-pip-version-check -r "$requirements"; then
      touch "$stamp"
      break
    fi
    if [ "$attempt" = 3 ]; then
      echo "install: pip could not install $requirements" >&2
      exit 1
    fi
    sleep 5
  done
fi
