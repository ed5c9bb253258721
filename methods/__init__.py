"""The unlearning methods. To add one: write `methods/MyIdea.py` with a class that inherits from `BaseMethod`,
import it here, and give it a name below; then `python main.py -m my_idea` grades it."""

from __future__ import annotations

from methods.Adversarial import Adversarial
from methods.Amnesiacs import Amnesiacs
from methods.Ams import Ams
from methods.BadTeacher import BadTeacher
from methods.BaseMethod import BaseMethod
from methods.BoundaryExpand import BoundaryExpand
from methods.BoundaryShrink import BoundaryShrink
from methods.CertifiedDpSgd import CertifiedDpSgd
from methods.CertifiedGradientClipping import CertifiedGradientClipping
from methods.CertifiedModelClipping import CertifiedModelClipping
from methods.CertifiedOutputPerturbation import CertifiedOutputPerturbation
from methods.CertifiedRetrain import CertifiedRetrain
from methods.CfK import CfK
from methods.Constrained import Constrained
from methods.Delete import Delete
from methods.DoNothing import DoNothing
from methods.EuK import EuK
from methods.Fanchuan import Fanchuan
from methods.Finetune import Finetune
from methods.Fisher import Fisher
from methods.Forget import Forget
from methods.Ftsu import Ftsu
from methods.GradientAscent import GradientAscent
from methods.Hirs import Hirs
from methods.Influence import Influence
from methods.Kookmin import Kookmin
from methods.L1Sparse import L1Sparse
from methods.LinearFiltration import LinearFiltration
from methods.MyMethod import MyMethod
from methods.NegGrad import NegGrad
from methods.NegGradPlus import NegGradPlus
from methods.NoisyFinetune import NoisyFinetune
from methods.PerturbedSign import PerturbedSign
from methods.ProgressiveSaliency import ProgressiveSaliency
from methods.RandomLabel import RandomLabel
from methods.Retrain import Retrain
from methods.Salun import Salun
from methods.Scar import Scar
from methods.Scrub import Scrub
from methods.Sebastian import Sebastian
from methods.Seif import Seif
from methods.SfrOn import SfrOn
from methods.Ssd import Ssd
from methods.SuccessiveRandomLabel import SuccessiveRandomLabel
from methods.Sun import Sun
from methods.Transpose import Transpose
from methods.Unsir import Unsir


def all_method_handlers() -> dict[str, type[BaseMethod]]:
    """Every registered method by the name that the command line knows it by."""
    return {
        "my_method": MyMethod,
        "noisy_finetune": NoisyFinetune,
        "fanchuan": Fanchuan,
        "kookmin": Kookmin,
        "seif": Seif,
        "sebastian": Sebastian,
        "transpose": Transpose,
        "amnesiacs": Amnesiacs,
        "sun": Sun,
        "forget": Forget,
        "finetune": Finetune,
        "gradient_ascent": GradientAscent,
        "neg_grad": NegGrad,
        "neg_grad_plus": NegGradPlus,
        "random_label": RandomLabel,
        "successive_random_label": SuccessiveRandomLabel,
        "l1_sparse": L1Sparse,
        "cf_k": CfK,
        "eu_k": EuK,
        "scrub": Scrub,
        "bad_teacher": BadTeacher,
        "delete": Delete,
        "fisher": Fisher,
        "influence": Influence,
        "ftsu": Ftsu,
        "ssd": Ssd,
        "salun": Salun,
        "sfr_on": SfrOn,
        "constrained": Constrained,
        "boundary_shrink": BoundaryShrink,
        "boundary_expand": BoundaryExpand,
        "perturbed_sign": PerturbedSign,
        "adversarial": Adversarial,
        "unsir": Unsir,
        "linear_filtration": LinearFiltration,
        "scar": Scar,
        "certified_gradient_clipping": CertifiedGradientClipping,
        "certified_model_clipping": CertifiedModelClipping,
        "certified_output_perturbation": CertifiedOutputPerturbation,
        "certified_dp_sgd": CertifiedDpSgd,
        "certified_retrain": CertifiedRetrain,
        "progressive_saliency": ProgressiveSaliency,
        "ams": Ams,
        "hirs": Hirs,
        "do_nothing": DoNothing,
        "retrain": Retrain,
    }
