# The commands of this project; what they do stands in tools/ and CMakePresets.json.

.PHONY: build demo test fuzz soak bench clean

build:            ## build/release/bin/ingot
	tools/install.sh build
	cmake --preset release
	cmake --build --preset release

demo: build       ## from a published model to an answer out of a running server; MODEL=DIR_OR_GGUF takes your own
	tools/demo.py $(if $(MODEL),--model "$(MODEL)")

test:             ## everything that CI runs
	tools/install.sh test
	tools/test.py

fuzz:             ## every fuzz target for five minutes
	tools/install.sh test
	tools/fuzz.py --seconds 300

soak: build       ## 64 clients for five minutes against the demo engine
	tools/soak.py

bench: build      ## Ingot beside llama.cpp and OpenVINO GenAI on this machine
	build/release/bin/ingot bench compare

clean:
	rm -rf build
