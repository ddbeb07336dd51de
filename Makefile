# make help lists the targets; each sets up .venv first, from the package index alone.
SHELL := /bin/bash
, := ,
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.SUFFIXES:
# So that a system's Python path or user packages can't get into .venv.
export PYTHONNOUSERSITE := 1
.PHONY: help demo bench speed test doctor lock test-newest test-lowest reproduce checksums clean

# The first Python of at least 3.11 that runs.
PYTHON ?= $(shell for p in python3.11 python3 python3.12 python3.13; do \
  $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && command -v $$p && break; done)
RUN := .venv/bin/python -m lightning_paras2s
WEIGHTS := checkpoints/embedded
STAMPS := runs/reproduce

help:
	@echo "make demo       GRPO from the shipped weights, before and after (CPU, no downloads but packages)"
	@echo "make bench      the whole benchmark on the full test set; go on with it after an interruption by the same command"
	@echo "make speed      speed and memory against plain ways, transformers and TRL, at this machine's limits (5 minutes)"
	@echo "make test       ruff and pytest"
	@echo "make doctor     what this machine and installation can do, on one screen"
	@echo "make lock       renew requirements.lock (LOCK='torch trl': these packages; LOCK=--all: every one)"
	@echo "make test-newest, make test-lowest   short tests on the newest and lowest versions that setup.cfg allows"
	@echo "make reproduce  every shipped weight from nothing; go on with it after an interruption by the same command"
	@echo "make checksums  renew checkpoints/embedded/SHA256SUMS"
	@echo "make clean      remove .venv and builds; runs/ and cache/ stay"
	@echo "TORCH_INDEX=URL after any of them: torch from an index of CPU builds, a fifth of the size"

demo: .venv/demo.stamp
	$(RUN) doctor --problems
	$(RUN) synthesize --out runs/demo/queries --split test --limit 20
	$(RUN) fit --config grpo.yaml --config trainer/glanced.yaml --trainer.logger.version demo
	$(RUN) evaluate --config demo.yaml
	$(RUN) audit --config audit.yaml --run runs/demo/evaluate --pairs 5 --controls null
	$(RUN) leaderboard --runs '[runs/demo/evaluate]'
	$(RUN) report --run runs/demo/evaluate --output runs/demo/report.html
	@echo 'Listen: runs/demo/report.html. Curves: .venv/bin/tensorboard --logdir runs'

bench: .venv/demo.stamp
	$(RUN) bench --config bench.yaml
	@echo 'Listen: runs/bench/full/report.html. Table: runs/bench/full/leaderboard.md'

# Tables on the terminal, one JSON object a line in results/speed.jsonl.
BENCHMARK := .venv/bin/python speed
RESULTS := results/speed.jsonl
speed: .venv/bench.stamp
	rm -f $(RESULTS)
	$(BENCHMARK)/rollout.py --json $(RESULTS)
	$(BENCHMARK)/rollout.py --dtype bfloat16 --peers transformers --repeats 2 --json $(RESULTS)
	$(BENCHMARK)/logps.py --repeats 3 --json $(RESULTS)
	$(BENCHMARK)/train_step.py --repeats 3 --json $(RESULTS)
	$(BENCHMARK)/grpo_step.py --json $(RESULTS)
	$(BENCHMARK)/grpo_step.py --dtype bfloat16 --repeats 3 --json $(RESULTS)
	$(BENCHMARK)/memory.py --figure docs/memory.png --json $(RESULTS)

# Workers share no file: each takes whole test files, and pytest gives each its own temporary folder. WORKERS= runs all in one process.
WORKERS ?= --numprocesses logical --maxprocesses 4 --dist loadfile
test: .venv/test.stamp
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/python -m pytest $(WORKERS) $(PYTEST_ARGS)

doctor: .venv/demo.stamp
	@$(RUN) doctor

.venv/bin/python:
	@test -n "$(PYTHON)" || { echo "error: Python must be 3.11 or newer; got none; set PYTHON=/path/to/python3.11" >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo "error: Python must be 3.11 or newer; got $$($(PYTHON) --version 2>&1); set PYTHON=/path/to/python3.11" >&2; exit 2; }
	$(PYTHON) -m venv .venv

# $(call install,EXTRAS): exactly what requirements.lock names for them.
install = @echo "Installing into .venv (a few minutes; log: .venv/install.log)" && \
  .venv/bin/python .ci/install.py $(1) $(if $(TORCH_INDEX),--torch-index $(TORCH_INDEX))
INSTALLED_FROM := requirements.lock setup.cfg pyproject.toml .ci/install.py

.venv/demo.stamp: $(INSTALLED_FROM) | .venv/bin/python
	$(call install,audit$(,)ears)
	@touch $@

.venv/test.stamp: $(INSTALLED_FROM) | .venv/bin/python
	$(call install,audit$(,)ears$(,)measures$(,)openai$(,)serve$(,)test)
	@touch $@ .venv/demo.stamp

.venv/bench.stamp: $(INSTALLED_FROM) | .venv/bin/python
	$(call install,bench)
	@touch $@

# Versions. `make lock` locks what is new in setup.cfg; the two tests install what its ranges allow, beside .venv.
.venv/lock.stamp: requirements.lock | .venv/bin/python
	.venv/bin/python .ci/install.py lock --alone
	@touch $@

lock: .venv/lock.stamp
	.venv/bin/python .ci/lock.py $(LOCK)
	@touch .venv/lock.stamp

SHORT := $(addprefix tests/test_,installation.py cli.py losses.py audio.py tiny_lm.py kimi_audio.py)
test-newest: RESOLUTION := highest
test-lowest: RESOLUTION := lowest-direct
test-newest test-lowest: .venv/lock.stamp
	rm -rf .venv-$@
	.venv/bin/python -m uv venv --quiet --seed --python .venv/bin/python .venv-$@
	.venv/bin/python -m uv pip install --quiet --python .venv-$@/bin/python --resolution $(RESOLUTION) -e '.[audit,test]'
	.venv-$@/bin/python -m lightning_paras2s doctor
	.venv-$@/bin/python -m pytest $(SHORT) $(PYTEST_ARGS)

# Every shipped weight from nothing (checkpoints/README.md: in which order). A step that is done leaves a stamp in
# $(STAMPS) and its seconds in $(STAMPS)/seconds.txt; a step that was cut goes on from its last checkpoint, because its run has a fixed
# version. Weights reach $(WEIGHTS) by `mv`, whole or not at all. To train one part and all that builds on it again, remove its stamp and
# its run: rm -r runs/reproduce/sft_fifth runs/sft_fifth/reproduce.
reproduce: $(addprefix $(STAMPS)/,acts audit polytone polytone_control sft sft_shuffled reward grpo)
	@$(MAKE) --no-print-directory checksums

# $(call timed,COMMAND): its seconds are those since the last interruption.
timed = mkdir -p $(STAMPS); SECONDS=0; $(1); echo "$(notdir $@) $$SECONDS" >> $(STAMPS)/seconds.txt

# $(call configs,RUN): a control is a difference that lies on a stage's config.
on_sft_shuffled := sft.yaml --config controls/sft_shuffled.yaml
on_polytone_control := polytone.yaml --config controls/polytone_control.yaml
configs = --config $(or $(on_$(1)),$(1).yaml)

# $(call ship,FILE,SHIPPED NAME)
define ship
cp $(1) $(WEIGHTS)/.$(2).part && mv $(WEIGHTS)/.$(2).part $(WEIGHTS)/$(2)

endef

# $(call fit,CONFIG,FILE THAT THE RUN LEAVES,SHIPPED NAME or nothing,OPTIONS,VERSION or nothing: reproduce)
define fit
	$(call timed,$(RUN) fit $(call configs,$(1)) --trainer.logger.version $(or $(5),reproduce) $(4))
	$(if $(3),$(call ship,runs/$(1)/$(or $(5),reproduce)/$(2),$(3)),test -s runs/$(1)/$(or $(5),reproduce)/$(2))
	@touch $@
endef
# The speech parts write their weights where `export` says.
export_to = --model.export runs/$(1)/reproduce/$(2)

$(STAMPS)/tokenizer: | .venv/demo.stamp
	$(call fit,tokenizer,tokenizer.safetensors,tokenizer.safetensors,$(call export_to,tokenizer,tokenizer.safetensors))

$(STAMPS)/transcriber: $(STAMPS)/tokenizer
	$(call fit,transcriber,transcriber.safetensors,transcriber.safetensors,$(call export_to,transcriber,transcriber.safetensors))

$(STAMPS)/style: $(STAMPS)/tokenizer
	$(call fit,style,style.safetensors,style.safetensors,$(call export_to,style,style.safetensors))

# One analyser a factor, and the control that leaks on purpose; a run trains all four.
define analysers
	$(call timed,$(RUN) fit $(call configs,$(1)) --trainer.logger.version reproduce $(call export_to,$(1),$(2)))
	$(foreach factor,emotion sarcasm age gender,$(call ship,runs/$(1)/reproduce/$(2)-$(factor).safetensors,$(2)-$(factor).safetensors))
	@touch $@
endef

$(STAMPS)/polytone: $(STAMPS)/transcriber
	$(call analysers,polytone,polytone)

$(STAMPS)/polytone_control: $(STAMPS)/transcriber
	$(call analysers,polytone_control,polytone-control)

$(STAMPS)/acts: | .venv/demo.stamp
	$(call timed,.venv/bin/python -m lightning_paras2s.judging.acts --path $(WEIGHTS)/acts.safetensors)
	@touch $@

$(STAMPS)/audit: | .venv/demo.stamp
	$(call timed,.venv/bin/python -m lightning_paras2s.hearing.audit $(WEIGHTS)/audit.json)
	@touch $@

$(STAMPS)/base: $(STAMPS)/tokenizer
	$(call fit,base,policy.safetensors,base.safetensors)

$(STAMPS)/sft $(STAMPS)/sft_fifth $(STAMPS)/sft_shuffled: $(STAMPS)/base $(STAMPS)/transcriber
$(STAMPS)/sft:
	$(call fit,sft,policy.safetensors)

$(STAMPS)/sft_fifth:
	$(call fit,sft_fifth,policy.safetensors,sft_fifth.safetensors)

$(STAMPS)/sft_shuffled:
	$(call fit,sft_shuffled,policy.safetensors)

$(STAMPS)/preferences: $(STAMPS)/sft_fifth $(STAMPS)/style $(STAMPS)/acts
	$(call timed,$(RUN) predict --config preferences.yaml)
	@touch $@

# The reward model is distilled twice: from the supervised policy's answers, and again with those of the policy that GRPO makes by the first.
FIRST := reproduce_first
AGAIN := runs/preferences/again
BOTH := --data.train '[runs/preferences/data/train.jsonl, $(AGAIN)/train.jsonl]' --data.val $(AGAIN)/val.jsonl
$(STAMPS)/reward_first: $(STAMPS)/preferences
	$(call fit,reward,scorer.safetensors,scorer.safetensors,,$(FIRST))

$(STAMPS)/grpo_first: $(STAMPS)/reward_first
	$(call fit,grpo_scorer,policy.safetensors,,,$(FIRST))

$(STAMPS)/preferences_again: $(STAMPS)/grpo_first
	$(call timed,$(RUN) predict --config preferences.yaml --model.init_from runs/grpo_scorer/$(FIRST)/policy.safetensors \
	  --model.folder $(AGAIN) --model.written null --model.samples 6 --model.others 6)
	@touch $@

$(STAMPS)/reward: $(STAMPS)/preferences_again
	$(call fit,reward,scorer.safetensors,scorer.safetensors,$(BOTH))

$(STAMPS)/grpo: $(STAMPS)/sft_fifth $(STAMPS)/style $(STAMPS)/acts
	$(call fit,grpo,policy.safetensors,grpo.safetensors,--trainer.precision 32-true)

# Renew what `sha256sum -c` checks, after weights have changed.
checksums:
	cd $(WEIGHTS) && sha256sum *.safetensors *.json > .SHA256SUMS.part && mv .SHA256SUMS.part SHA256SUMS

clean:
	rm -rf .venv .venv-test-* build dist *.egg-info
