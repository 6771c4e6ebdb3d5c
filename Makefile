# `make demo`, `make test`, `make serve`, `make soak`. They need Python 3.11, pip, make and git; everything else goes into .venv.
#
# On a Linux machine whose package index offers the CUDA build of torch first, 4 GB are saved by
#   make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu

PYTHON ?= $(shell command -v python3.11 || command -v python3)
TORCH_INDEX ?=
BIN := .venv/bin
DEBIAN_PACKAGES := libgl1 libegl1 libgl1-mesa-dri libxkbcommon0 libdbus-1-3 dicom3tools orthanc orthanc-dicomweb

export PIP_CONSTRAINT := $(CURDIR)/constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo serve test soak lint slicer-event-loop evaluate evaluate-edit evaluate-iap evaluate-shifted \
	evaluate-fitted evaluate-labels evaluate-lesion evaluate-structure evaluation-page lesion-weights \
	studies/evaluation segmentation-study active-learning-study lesion-study batch-plan demo-weights debian-packages clean

demo: .venv/.runtime
	$(BIN)/cfmri demo demo

serve: .venv/.runtime
	$(BIN)/cfmri demo studies/demo --serve

# A thread for each process: two processes with two threads each would wait for one another on two cores.
test: debian-packages lint
	$(BIN)/coverage erase
	OMP_NUM_THREADS=1 $(BIN)/coverage run -m pytest --numprocesses 2 --dist loadfile
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

# What must not break, at full size; writes results/soak/*.json. The normal suite runs a slice of each.
soak: .venv/.test
	$(BIN)/python -m pytest tests/robustness tests/core/test_bench.py --soak --timeout 7200

lint: .venv/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	PYTHONPATH=apps/counterfactual_mri:slicer_extension/CounterfactualMRI $(BIN)/lint-imports

# For how long the Slicer module holds up Slicer's event loop, with a volume of full size; minutes on two cores.
slicer-event-loop: .venv/.test debian-packages
	$(BIN)/python tests/slicer/measure_event_loop.py results/slicer-event-loop.json

# The shipped models, from nothing but this repository: hours on two cores. A run that was stopped goes on.
TRAIN := $(BIN)/cfmri train
demo-weights: .venv/.runtime
	$(BIN)/cfmri simulate training/unlabelled --subjects 220 --seed 10000
	$(BIN)/cfmri simulate training/labelled --subjects 24 --seed 20000 --set "manufacturer=GE MEDICAL SYSTEMS"
	$(BIN)/cfmri simulate training/pairs --subjects 300 --seed 31000 --slab-mm 24 --varied --keep slice_thickness_mm \
		--paired results/training-targets.json
	$(BIN)/cfmri simulate training/predictor --subjects 2400 --seed 110000 --slab-mm 16
	$(BIN)/cfmri simulate training/scoring --subjects 1600 --seed 220000 --slab-mm 16
	$(BIN)/cfmri simulate training/scoring-decorrelated --subjects 500 --seed 230000 --slab-mm 16 --protocol decorrelated
	for folder in training/scoring-decorrelated/sub-*; do \
		ln -sfn ../../$$folder training/scoring/$$(basename $$folder)-decorrelated; done
	$(BIN)/cfmri simulate training/validation --subjects 40 --seed 900000 --slab-mm 16 --paired results/validation-targets.json
	$(TRAIN) editor training/unlabelled --output training/editor --iterations 5000 --resume
	$(TRAIN) direct-editor training/pairs --output training/direct_editor --iterations 17000 --batch-size 8 --resume
	$(TRAIN) iap-predictor training/predictor --output training/iap_predictor --iterations 6000 --resume
	$(TRAIN) iap-predictor training/scoring --output training/scoring_predictor --preset scoring --iterations 6000 --resume
	$(TRAIN) segmenter training/labelled --output training/segmenter --iterations 600 --resume
	# What finds the breast for the structure editor must not mind contrast; what scores it saw none of these subjects.
	mkdir -p training/structure
	for number in $$(seq -f %04g 1 300); do ln -sfn ../pairs/sub-$$number training/structure/varied-$$number; done
	for number in $$(seq -f %04g 1 120); do ln -sfn ../unlabelled/sub-$$number training/structure/plain-$$number; done
	$(TRAIN) segmenter training/structure --output training/structure_segmenter --augmentation contrast-randomisation \
		--iterations 1500 --seed 34 --resume
	for seed in 51 52; do $(TRAIN) segmenter training/structure --output training/structure_judge_$$seed \
		--augmentation contrast-randomisation --iterations 1000 --seed $$seed --resume; done
	$(TRAIN) segmenter training/structure --output training/structure_reader --preset fine \
		--augmentation contrast-randomisation --iterations 900 --batch-size 8 --seed 53 --resume
	$(TRAIN) structure-editor training/structure --output training/structure_editor --batch-size 6 \
		--segmenter training/structure_segmenter/model --reader training/structure_reader/model \
		--judge training/structure_judge_51/model --judge training/structure_judge_52/model --seed 34 --resume
	mkdir -p training/structure_scoring
	for number in $$(seq -f %04g 1 160); do ln -sfn ../scoring/sub-$$number training/structure_scoring/sub-$$number; done
	$(TRAIN) segmenter training/structure_scoring --output training/scoring_segmenter --preset scoring \
		--augmentation contrast-randomisation --iterations 1200 --batch-size 8 --seed 37 --resume
	for kind in editor direct_editor iap_predictor scoring_predictor segmenter structure_editor scoring_segmenter; do \
		mkdir -p cfmri_core/weights/$$kind && cp training/$$kind/model/* cfmri_core/weights/$$kind/; done
	$(BIN)/cfmri calibrate support training/unlabelled training/validation --model cfmri_core/weights
	# These two learned from other subjects than the editor, and their trainings wrote what those support.
	for kind in direct_editor iap_predictor; do \
		cp training/$$kind/model/support.json cfmri_core/weights/$$kind/; done
	$(BIN)/cfmri calibrate edits training/validation --model cfmri_core/weights --method inversion --replays 2
	$(BIN)/cfmri calibrate edits training/validation --model cfmri_core/weights --method fast --replays 1

# The lesion editors, and on other subjects the segmenter that judges them: an hour on two cores.
lesion-weights: .venv/.runtime
	$(BIN)/cfmri simulate training/lesions --subjects 100 --seed 300000 --slab-mm 36 --lesions 2 --enhanced \
		--paired results/lesion-targets.json
	$(BIN)/cfmri simulate training/lesions-independent --subjects 60 --seed 330000 --slab-mm 36 --lesions 2 --enhanced \
		--paired results/lesion-targets.json
	$(TRAIN) lesion-editor training/lesions --output training/lesion_editor --iterations 3000 --resume
	$(TRAIN) palette-editor training/lesions --output training/palette_editor --iterations 3000 --resume
	$(TRAIN) lesion-segmenter training/lesions-independent --output training/lesion_segmenter --iterations 900 --resume
	for kind in lesion_editor palette_editor lesion_segmenter; do \
		mkdir -p cfmri_core/weights/$$kind && cp training/$$kind/model/* cfmri_core/weights/$$kind/; done

# The figures in results/: simulated patients that no shipped model was trained or tuned on. Hours on two cores; what was
# interrupted goes on. EVALUATE takes further options, e.g. EVALUATE="--device cuda" or EVALUATE="--slices 6".
EVALUATE ?=
EVALUATION_PATIENTS ?= 40
SIMULATED := $(BIN)/cfmri simulate
EVALUATED := $(BIN)/cfmri evaluate

evaluate: evaluate-edit evaluate-fitted evaluate-iap evaluate-lesion evaluate-structure evaluation-page

evaluate-edit: studies/evaluation
	$(EVALUATED) studies/evaluation --suite edit --case cross-vendor --case decorrelated \
		--json results/edit.json --report results/edit.html $(EVALUATE)
	$(EVALUATED) studies/evaluation --suite edit --case "single echo_time_ms" --case "single repetition_time_ms" \
		--case "single flip_angle_deg" --case "single slice_thickness_mm" --case "single field_strength_t" \
		--method fast --method "fast, noise scaled" --method "fast, noise renewed" --method inversion \
		--json results/edit-single.json --report results/edit-single.html $(EVALUATE)

# The paired patients, and 400 more that were scanned once: an accuracy of 99 % cannot be seen on 40.
evaluate-iap: studies/evaluation
	$(SIMULATED) studies/scanned-once --subjects 400 --seed 74000 --slab-mm 16
	mkdir -p studies/iap
	for name in evaluation scanned-once; do for folder in studies/$$name/sub-*; do \
		ln -sfn ../../$$folder studies/iap/$$name-$$(basename $$folder); done; done
	$(EVALUATED) studies/iap --suite iap --json results/iap.json --report results/iap.html

evaluate-structure: .venv/.runtime
	$(SIMULATED) studies/structure --subjects $(EVALUATION_PATIENTS) --seed 365000 --slab-mm 16 \
		--paired results/structure-targets.json
	$(EVALUATED) studies/structure --suite structure --slices 4 --case "20 %" --case "40 %" \
		--json results/structure.json --report results/structure.html $(EVALUATE)

# Coils, noise, looks of the scanners and tissue values that no model was trained on.
evaluate-shifted: .venv/.runtime
	$(SIMULATED) studies/evaluation-shifted --subjects $(EVALUATION_PATIENTS) --seed 71000 --slab-mm 30 \
		--setting shifted --paired results/edit-targets.json
	$(EVALUATED) studies/evaluation-shifted --suite edit --case cross-vendor --case decorrelated \
		--json results/edit-shifted.json --report results/edit-shifted.html $(EVALUATE)

# The same patients, once the editor has seen 160 scans of others there, each acquired once and without labels.
evaluate-fitted: evaluate-shifted
	$(SIMULATED) studies/site --subjects 160 --seed 130000 --slab-mm 16 --setting shifted
	rm -rf studies/site-models
	$(BIN)/cfmri calibrate scanners studies/site --output studies/site-models
	$(EVALUATED) studies/evaluation-shifted --suite edit --case cross-vendor --case decorrelated \
		--method fast --method "fast, noise removed" --model studies/site-models \
		--json results/edit-fitted.json --report results/edit-fitted.html $(EVALUATE)

# Anatomies from your own breast label maps: make evaluate-labels LABELS=FOLDER (see `cfmri simulate --help`).
evaluate-labels: .venv/.runtime
	$(SIMULATED) studies/evaluation-labels --labels "$(LABELS)" --subjects $(words $(wildcard $(LABELS)/*.nii.gz)) \
		--seed 72000 --slab-mm 30 --paired results/edit-targets.json
	$(EVALUATED) studies/evaluation-labels --suite edit --case cross-vendor --case decorrelated \
		--json results/edit-labels.json --report results/edit-labels.html $(EVALUATE)

# Lesions in and out, by all methods; half an hour on two cores.
evaluate-lesion: .venv/.runtime
	$(SIMULATED) studies/lesion --subjects $(EVALUATION_PATIENTS) --seed 320000 --slab-mm 36 --lesions 1 --enhanced \
		--paired results/lesion-targets.json
	$(EVALUATED) studies/lesion --suite lesion --json results/lesion.json --report results/lesion.html

evaluation-page: .venv/.runtime
	$(BIN)/cfmri evaluation-page results EVALUATION.md

studies/evaluation: .venv/.runtime results/edit-targets.json
	$(SIMULATED) $@ --subjects $(EVALUATION_PATIENTS) --seed 76000 --slab-mm 30 --paired results/edit-targets.json

# Does counterfactual augmentation pay? 75 short trainings: some hours on two cores. A study that was stopped goes on; two
# processes share it when the last command gets --part 1/2 in one and --part 2/2 in the other.
segmentation-study: .venv/.runtime
	$(BIN)/cfmri simulate studies/segmentation/ge --subjects 24 --seed 50000 --slab-mm 30 --set "manufacturer=GE MEDICAL SYSTEMS"
	$(BIN)/cfmri simulate studies/segmentation/siemens --subjects 24 --seed 51000 --slab-mm 30 --set manufacturer=SIEMENS
	$(BIN)/cfmri simulate studies/segmentation/test --subjects 40 --seed 85000 --slab-mm 30 --paired results/segmentation-targets.json
	$(BIN)/cfmri segmentation-study studies/segmentation/test --training studies/segmentation/ge \
		--training studies/segmentation/siemens --output studies/segmentation/study
	cp studies/segmentation/study/result.json results/segmentation.json
	cp studies/segmentation/study/table.md results/segmentation.md
	cp studies/segmentation/study/cases.csv results/segmentation-cases.csv

# How many labels does active learning save? 85 short trainings: an hour or two on two cores. A study that was stopped goes
# on; two processes share it by --part 1/2 and --part 2/2 in the last command.
active-learning-study: .venv/.runtime
	$(BIN)/cfmri simulate studies/active/pool --subjects 40 --seed 56000 --slab-mm 24
	$(BIN)/cfmri simulate studies/active/test --subjects 24 --seed 88000 --slab-mm 24 --paired results/active-learning-targets.json
	$(BIN)/cfmri active-learning-study studies/active/pool --test studies/active/test --output studies/active/study
	cp studies/active/study/result.json results/active-learning.json

# Do inserted lesions improve a lesion segmenter when lesions are few? 20 short trainings: an hour on one core. A study that
# was stopped goes on; processes share it by --part 1/2 and --part 2/2 in the last command. The number of steps was chosen
# for the arm classical: 600 rather than 300, by 8 other patients (--seed 395000) and two other seeds.
lesion-study: .venv/.runtime
	$(BIN)/cfmri simulate studies/lesion-study/real --subjects 30 --seed 380000 --slab-mm 36 --lesions 1 --enhanced
	$(BIN)/cfmri simulate studies/lesion-study/healthy --subjects 30 --seed 385000 --slab-mm 36 --enhanced
	$(BIN)/cfmri simulate studies/lesion-study/test --subjects 40 --seed 390000 --slab-mm 36 --lesions 1 --enhanced
	$(BIN)/cfmri lesion-study studies/lesion-study/real --healthy studies/lesion-study/healthy \
		--test studies/lesion-study/test --output studies/lesion-study/study
	cp studies/lesion-study/study/result.json results/lesion-study.json

# What a million series would take on machines like this one, from a measured batch: results/batch-plan.md.
batch-plan: .venv/.runtime
	$(SIMULATED) studies/batch --subjects 16 --seed 95000 --slab-mm 150
	$(BIN)/cfmri batch studies/batch studies/batch-results --edits results/batch-edits.yaml
	$(BIN)/cfmri batch studies/batch studies/batch-results --edits results/batch-edits.yaml --dry-run --series 1000000 \
		--plan results/batch-plan.md

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' \
		|| { echo "cfmri needs Python 3.11 ($(PYTHON) is another); say which: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv .venv

# torch first, alone: MONAI Label's own requirements would pull torchvision, whose CPU build does not load.
.venv/.runtime: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch==2.13.0
	$(BIN)/python -m pip install --quiet --editable '.[server,archive]'
	$(BIN)/python -m pip install --quiet --no-deps monailabel==0.8.5
	touch $@

.venv/.test: .venv/.runtime
	$(BIN)/python -m pip install --quiet --editable '.[server,archive,test]'
	touch $@

# Graphics libraries for the 3D Slicer tests, a DICOM validator and a PACS; without them the tests concerned skip and say so.
debian-packages:
	@if command -v dpkg >/dev/null && ! dpkg -s $(DEBIAN_PACKAGES) >/dev/null 2>&1; then \
		if [ "$$(id -u)" = 0 ]; then \
			apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $(DEBIAN_PACKAGES) \
				|| echo "Could not install all of: $(DEBIAN_PACKAGES)"; \
		else echo "Some tests will skip. To run them: sudo apt-get install $(DEBIAN_PACKAGES)"; fi; \
	fi

clean:
	rm -rf .venv build demo studies/demo
