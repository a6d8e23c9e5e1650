"""Our verifiers in lm-evaluation-harness, and its task files in `rlvr eval`.

    lm_eval --include_path "$(python -m rlvr.lm_eval)" --tasks rlvr_gsm8k --model hf --model_args pretrained=...
    rlvr eval --model ... --tasks rlvr/lm_eval/tasks/rlvr_gsm8k.yaml --lm-eval-out results.json

Task files are the harness's own YAML; `metadata.rlvr` says who judges: {verifier, gold, options}. Nothing here needs
the harness but plugin.py.
"""
