# AnoSeg Edge. `make help` lists what there is. Two commands matter: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
JETPACK := $(wildcard /etc/nv_tegra_release)

.PHONY: help demo test docs check format install uninstall torture floods faults losses real-cameras still-scenes handshake plc-kills plc-floods archive-kills archive-bench evidence reinspect-kills fleet-kills soak bench clients-bench pixel-bench page-times gpu-check systemd-test demo-bundle clean
.DEFAULT_GOAL := help

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 22

demo: $(VENV)/.installed-base ## set up, then inspect a simulated line with the real daemon (half a minute)
	$(BIN)/anosegd demo --out demo-out

test: $(VENV)/.installed-dev ## set up, then run the whole test suite, on as many cores as there are (at most 4)
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal

docs: $(VENV)/.installed-docs ## build the documentation into docs/_build; a warning is an error
	$(BIN)/python -m sphinx -q -W --keep-going -b html docs docs/_build
	@echo "open docs/_build/index.html"

check: $(VENV)/.installed-dev ## lint, format, types, import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.installed-dev ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

install: ## as root: install as a service (Debian, Ubuntu, JetPack); PREFIX=/opt/anoseg, DESTDIR=, EXTRAS=
	@PREFIX='$(PREFIX)' DESTDIR='$(DESTDIR)' EXTRAS='$(EXTRAS)' PYTHON='$(PYTHON)' systemd/install.sh install

uninstall: ## as root: remove the service; configurations, bundles and journals stay
	@PREFIX='$(PREFIX)' DESTDIR='$(DESTDIR)' systemd/install.sh uninstall

torture: $(VENV)/.installed-dev ## kill the daemon and an archiving client 50 times each; no verdict may be lost (minutes)
	$(BIN)/python tests/stress/torture.py

floods: $(VENV)/.installed-dev ## attack both sockets with 100,000 malformed frames, without and with keys (four minutes)
	$(BIN)/python tests/stress/floods.py
	$(BIN)/python tests/stress/floods.py --keys

faults: $(VENV)/.installed-dev ## cause every fault of a line for real and print the outcomes of the parts (five minutes)
	$(BIN)/python tests/stress/faults.py

losses: $(VENV)/.installed-dev ## lose packets of JPEG, H.264 and H.265 streams and videos; no damaged frame may be judged (three minutes; FFmpeg)
	$(BIN)/python tests/stress/losses.py

real-cameras: $(VENV)/.installed-dev ## kill, freeze and slow down RTSP and GigE Vision cameras under the daemon; one table (a minute and a half)
	$(BIN)/python tests/stress/real_cameras.py

still-scenes: $(VENV)/.installed-dev ## inspect cameras before a still part for ten minutes, then freeze each in every way; two tables
	$(BIN)/python tests/stress/still_scenes.py

handshake: $(VENV)/.installed-dev ## 100,000 parts between a station, a PLC bridge and a PLC, restarted at random, in virtual time (half a minute)
	$(BIN)/python tests/stress/plc_handshake.py

plc-kills: $(VENV)/.installed-dev ## pass 2,000 parts over Modbus, OPC UA, S7 and Logix, and kill station, bridge and PLC 20 times each (an hour and a half)
	for kind in modbus opcua s7 logix; do echo $$kind; $(BIN)/python tests/stress/plc_kills.py --kind $$kind || exit 1; done

plc-floods: $(VENV)/.installed-dev ## send 100,000 malformed frames to a bridge over Modbus, and as many over OPC UA (a quarter of an hour)
	$(BIN)/python tests/stress/modbus_rubbish.py
	$(BIN)/python tests/stress/opcua_rubbish.py

archive-kills: $(VENV)/.installed-dev ## kill an archive, its PostgreSQL and 20 stations 50 times; every verdict is stored once (five minutes; PostgreSQL)
	$(BIN)/python tests/stress/archive.py

archive-bench: $(VENV)/.installed-dev ## measure how many verdicts a second an archive stores (quiet machine; two minutes; PostgreSQL)
	$(BIN)/python tests/bench/archive_rate.py

evidence: $(VENV)/.installed-dev ## keep rejected parts at full rate on a small disk, with kills; the limits hold and every file is whole (ten minutes; root)
	$(BIN)/python tests/stress/evidence.py

reinspect-kills: $(VENV)/.installed-dev ## inspect 20,000 images again with kills, in one process and on Ray; rows must equal a plain loop's
	$(BIN)/python tests/stress/reinspect.py

fleet-kills: $(VENV)/.installed-dev ## train six products with kills of workers, trainings and the driver; each must finish once (DATA=folders of images)
	$(BIN)/python tests/stress/fleet.py $(if $(DATA),--data $(DATA))

soak: $(VENV)/.installed-dev ## run an hour at full rate with a fault a minute; memory, threads and descriptors may not grow
	$(BIN)/python tests/stress/soak.py

bench: $(VENV)/.installed-dev ## measure the daemon's speed, and a frame's way from capture to verdict, against the engine alone (quiet machine; about ten minutes)
	$(BIN)/python tests/bench/line_bench.py
	$(BIN)/python tests/bench/frames_bench.py

clients-bench: $(VENV)/.installed-dev ## measure what nine clients, Chromium and the evidence cost a part at half the engine's rate (quiet machine; five minutes; Chromium)
	$(BIN)/python tests/bench/clients_cost.py

pixel-bench: $(VENV)/.installed-dev ## measure how long it takes until a reject or an alarm is drawn in Chromium, with a plain subscriber beside it (three minutes)
	$(BIN)/python tests/bench/to_pixel.py

page-times: $(VENV)/.installed-dev ## measure how long every answer of the screen takes with twelve hours of verdicts behind it (three minutes)
	$(BIN)/python tests/bench/page_times.py

gpu-check: $(VENV)/.installed-gpu ## on a machine with a GPU: build, test and measure the TensorRT runtime; one table
	$(BIN)/python tests/bench/gpu_check.py

systemd-test: $(VENV)/.installed-dev ## as root: install the service in a Debian tree, boot it, kill it, hang it (minutes; debootstrap, systemd-nspawn)
	$(BIN)/python tests/stress/systemd_boot.py

demo-bundle: $(VENV)/.installed-dev ## train the demo's bundle: render its images, train, replace engines/store/demo
	rm -rf runs/demo-images runs/demo-store
	$(BIN)/anosegd demo-images --out runs/demo-images
	$(BIN)/anoseg-train fit --data runs/demo-images --out runs/demo-store/demo --config configs/train-demo.yaml
	$(BIN)/anoseg-train calibrate --bundle runs/demo-store/demo/2 --data runs/demo-images/calibration --false-reject 0.0075
	$(BIN)/anoseg-engine release runs/demo-store/demo/3
	$(BIN)/anoseg-train evaluate --bundle runs/demo-store/demo --data runs/demo-images
	rm -rf engines/store/demo runs/demo-store/demo/1 runs/demo-store/demo/2  # the demo needs the released version alone
	mv runs/demo-store/demo engines/store/demo

clean: ## remove the virtual environment and everything generated
	rm -rf $(VENV) demo-out runs docs/_build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache

# Debian's Python without python3-venv fails after it has made bin/python, which would count as an environment the next time.
$(VENV)/bin/python:
	$(PYTHON) -m venv $(if $(JETPACK),--system-site-packages) $(VENV) || { rm -f $@; exit 1; }

# Installed editable, so that the commands run this checkout. The base install is all that the line needs: no PyTorch.
$(VENV)/.installed-base: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "Installing into $(VENV) (a few minutes the first time) ..."
	$(PIP_INSTALL) --editable .
	@touch $@

# No PyTorch: it is measured too where it is installed. A Jetson has its own TensorRT. pycuda compiles with CUDA's nvcc.
$(VENV)/.installed-gpu: $(VENV)/.installed-base
	PATH="$$PATH:/usr/local/cuda/bin" $(PIP_INSTALL) $(if $(JETPACK),pycuda,--editable '.[tensorrt]')
	@touch $@

$(VENV)/.installed-docs: $(VENV)/.installed-base
	$(PIP_INSTALL) --editable '.[docs]'
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed-base
	@echo "Installing the trainer and the test tools into $(VENV) (PyTorch is large) ..."
	$(PIP_INSTALL) --editable '.[train,tensorrt-rtx,docs,dev]'
	@touch $@
