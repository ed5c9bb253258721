"""The unlearning methods. To add one: write `methods/MyIdea.py` with a class `MyIdea` that inherits from `BaseMethod`,
and give it a name below, `"my_idea": "MyIdea",`; then `python main.py -m my_idea` grades it.

No method's file is imported here: one that is broken, slow to import or not to be trusted concerns nobody but those who
use it.
"""

from __future__ import annotations

from methods.registry import Handlers


def all_method_handlers() -> Handlers:
    """Every registered method, by the name that the command line knows it by: a mapping to classes.

    The file of a class is imported when the class is looked up.
    """
    entries = {
        "my_method": "MyMethod",
        "noisy_finetune": "NoisyFinetune",
        "self_tuned": "SelfTuned",
        "fanchuan": "Fanchuan",
        "kookmin": "Kookmin",
        "seif": "Seif",
        "sebastian": "Sebastian",
        "transpose": "Transpose",
        "amnesiacs": "Amnesiacs",
        "sun": "Sun",
        "forget": "Forget",
        "finetune": "Finetune",
        "gradient_ascent": "GradientAscent",
        "neg_grad": "NegGrad",
        "neg_grad_plus": "NegGradPlus",
        "random_label": "RandomLabel",
        "successive_random_label": "SuccessiveRandomLabel",
        "l1_sparse": "L1Sparse",
        "ft_prune": "FtPrune",
        "cf_k": "CfK",
        "eu_k": "EuK",
        "scrub": "Scrub",
        "bad_teacher": "BadTeacher",
        "delete": "Delete",
        "fisher": "Fisher",
        "influence": "Influence",
        "ftsu": "Ftsu",
        "ssd": "Ssd",
        "salun": "Salun",
        "sfr_on": "SfrOn",
        "constrained": "Constrained",
        "boundary_shrink": "BoundaryShrink",
        "boundary_expand": "BoundaryExpand",
        "perturbed_sign": "PerturbedSign",
        "adversarial": "Adversarial",
        "unsir": "Unsir",
        "linear_filtration": "LinearFiltration",
        "scar": "Scar",
        "weight_distortion": "WeightDistortion",
        "dist_reg": "DistReg",
        "mode_connectivity": "ModeConnectivity",
        "not_negation": "NotNegation",
        "regun": "Regun",
        "undo": "Undo",
        "duck": "Duck",
        "lotus": "Lotus",
        "amun": "Amun",
        "datamodel_matching": "DatamodelMatching",
        "certified_gradient_clipping": "CertifiedGradientClipping",
        "certified_model_clipping": "CertifiedModelClipping",
        "certified_output_perturbation": "CertifiedOutputPerturbation",
        "certified_dp_sgd": "CertifiedDpSgd",
        "certified_retrain": "CertifiedRetrain",
        "progressive_saliency": "ProgressiveSaliency",
        "ams": "Ams",
        "hirs": "Hirs",
        "do_nothing": "DoNothing",
        "retrain": "Retrain",
    }
    return Handlers(entries)
