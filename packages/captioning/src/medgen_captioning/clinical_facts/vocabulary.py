"""Words of clinical sentences and what they mean: patterns over lower-case text, longest meaning first."""

import re

# Names of one thing; a plural s is part of the pattern where the thing can be counted.
# Specific before general: `polyp snare` must be taken before `polyp`.
FINDINGS = {
    "dyed lifted polyp": r"(?:dyed|stained)(?:,| and|-)? ?lifted polyps?|lifted,? dyed polyps?",
    "dyed resection margin": r"dyed resection margins?|stained resection margins?",
    "ulcerative colitis": r"ulcerative colitis|colitis ulcerosa",
    "oesophagitis": r"(?:reflux )?o?esophagitis|inflammation of the o?esophagus|inflamed o?esophagus",
    "barrett's oesophagus": r"barrett'?s?'?(?: (?:o?esophagus|mucosa|metaplasia|epithelium))?",
    "haemorrhoid": r"ha?emorrhoids?",
    "polyp": r"polyps?|polypoid (?:growth|lesion|mass)(?:e?s)?",
    "ulcer": r"ulcers?|ulcerations?",
    "melanoma": r"melanomas?",
    "nevus": r"melanocytic na?evi?(?:us)?|na?ev(?:us|i)|moles?",
    "basal cell carcinoma": r"basal cell carcinomas?",
    "squamous cell carcinoma": r"squamous cell carcinomas?",
    "actinic keratosis": r"actinic keratos[ei]s",
    "seborrhoeic keratosis": r"seborrho?eic keratos[ei]s",
    "benign keratosis": r"benign keratos[ei]s",
    "dermatofibroma": r"dermatofibromas?",
    "solar lentigo": r"solar lentigo|lentigo solaris|solar lentigines",
    "vascular lesion": r"vascular lesions?",
    "carcinoma": r"(?:adeno)?carcinomas?|cancers?",
    "pneumonia": r"pneumonia",
    "pneumothorax": r"pneumothora(?:x|ces)",
    "effusion": r"effusions?|pleural fluid",
    "fracture": r"fractures?|fractured",
    "dislocation": r"dislocations?|dislocated",
    "nodule": r"nodules?",
    "mass": r"mass(?:es)?",
    "tumour": r"tumou?rs?",
    "cyst": r"cysts?",
    "haematoma": r"ha?ematomas?",
    "haemorrhage": r"ha?emorrhag(?:e|es|ing)|bleeding",
    "stone": r"stones?|calcul(?:us|i)",
    "calcification": r"calcifications?",
    "stenosis": r"stenos[ei]s|strictures?",
    "occlusion": r"occlusions?",
    "thrombus": r"thromb(?:us|i|osis|oses)",
    "aneurysm": r"(?:pseudo)?aneurysms?",
    "oedema": r"o?edema",
    "consolidation": r"consolidations?",
    "opacity": r"opacit(?:y|ies)|opacification",
    "atelectasis": r"atelectas[ei]s",
    "infarct": r"infarct(?:s|ion|ions)?",
    "abscess": r"abscess(?:es)?",
    "metastasis": r"metastas[ei]s",
    "lymph node": r"lymph nodes?|(?:lymph)?adenopathy",
    "erosion": r"erosions?",
    "inflammation": r"inflammation",
    "finding": (
        r"(?:pathologic(?:al)?|abnormal|clinical) (?:findings?|changes?|lesions?|areas?|features?)"
        r"|findings?|abnormalit(?:y|ies)|lesions?|anomal(?:y|ies)|patholog(?:y|ies)|irregularit(?:y|ies)"
    ),
}
LANDMARKS = {
    "z-line": r"z[ -]?lines?|squamo-?columnar junctions?|gastro-?o?esophageal junctions?",
    "cecum": r"ca?ecum|ca?ecal (?:region|area|pole|mucosa)",
    "ileum": r"ileum|ileal (?:region|area|mucosa)",
    "pylorus": r"pylorus|pyloric (?:region|area|ring|opening|sphincter)",
    "lumen": r"lumens?|lumina",
    "anatomical landmark": r"anatomic(?:al)? (?:landmarks?|structures?|reference points?)|landmarks?",
}
INSTRUMENTS = {
    "polyp snare": r"(?:polyp(?:ectomy)?|wire|endoscopic) snares?|snares?(?: (?:used )?for polyps?)?",
    "biopsy forceps": r"(?:biopsy|bioptic) forceps|forceps for (?:a )?biops(?:y|ies)|forceps",
    "injection needle": r"(?:injection|injecting|injector) needles?|needles?(?: for injections?)?",
    "metal clip": r"(?:metal(?:lic)?|endoscopic|ha?emostatic) clips?|clips? made of metal|clips?",
    "tube": r"tubes?|tubing",
    "instrument": (
        r"(?:medical|surgical|endoscopic|clinical) (?:instruments?|tools?|devices?|accessor(?:y|ies))"
        r"|instrument(?:s|ation)?|tools?|devices?"
    ),
}
ARTEFACTS = {
    "box artefact": (
        r"box(?:es|-shaped|-like)? (?:artefacts?|artifacts?|overlays?)|(?:artefacts?|artifacts?) box(?:es)?"
        r"|(?:artefacts?|artifacts?) (?:in the (?:form|shape) of|shaped like|resembling) a box|box(?:es)?"
    ),
    "artefact": r"artefacts?|artifacts?",
    "text": (
        r"(?:textual|written|text|on-screen|overlaid|embedded)[ -](?:text|elements?|content|information|overlays?"
        r"|annotations?|labels?|characters?|words?)|text|lettering|writing|(?:written )?characters|written words"
    ),
}
ENTITIES = {**INSTRUMENTS, **FINDINGS, **LANDMARKS, **ARTEFACTS}
# A general name beside a particular one ("a polyp lesion") says nothing more.
GENERAL = {
    "finding": frozenset(FINDINGS) - {"finding"},
    "instrument": frozenset(INSTRUMENTS) - {"instrument"},
    "anatomical landmark": frozenset(LANDMARKS) - {"anatomical landmark", "lumen"},
    "artefact": frozenset(["box artefact"]),
}
# Neither `a` nor a plural form of these says how many there are.
UNCOUNTED = frozenset(
    [
        "text",
        "oesophagitis",
        "ulcerative colitis",
        "barrett's oesophagus",
        "biopsy forceps",
        "z-line",
        "cecum",
    ]
) | frozenset(
    ["ileum", "pylorus", "lumen", "haemorrhage", "oedema", "inflammation", "pneumonia", "lymph node"]
)

PROCEDURES = {
    "colonoscopy": (
        r"colonoscop(?:y|ies|ic|es?)|lower endoscop(?:y|ic)"
        r"|lower (?:gi|gastro-?intestinal)(?: tract)? endoscop(?:y|ic)"
    ),
    "gastroscopy": (
        r"gastroscop(?:y|ies|ic|es?)|o?esophago-?gastro-?duodenoscopy|egd"
        r"|upper (?:gi|gastro-?intestinal)(?: tract)? endoscop(?:y|ic)|upper endoscop(?:y|ic)"
    ),
    "dermoscopy": r"derm(?:at)?oscop(?:y|ic|es?)",
    "endoscopic ultrasound": r"endoscopic ultraso(?:und|nography)|endosonography",
    "endoscopy": (
        r"endoscop(?:y|ic|ies|es?)|gastro-?intestinal(?: tract)?|gi tract|gi(?= (?:image|picture|frame|view))"
    ),
    "cbct": r"cone[ -]beam (?:ct|computed tomography)|cbct",
    "ct": r"(?:ct|computed tomograph(?:y|ic)|computeri[sz]ed tomograph(?:y|ic))(?:[ -]scans?)?",
    "pet": r"pet|positron emission tomography",
    "mri": r"(?:mri?|magnetic resonance(?: imaging)?)(?: scans?)?",
    "mrcp": r"mrcp",
    "angiography": r"angiogra(?:m|ms|phy|phic)|arteriogram",
    "ultrasound": r"ultraso(?:und|nography|nographic)|sonogra(?:m|phy|phic)|echogra(?:m|phy)",
    "echocardiography": r"echocardiogra(?:m|phy|phic)",
    "mammography": r"mammogra(?:m|ms|phy|phic)",
    "fluoroscopy": r"fluoroscop(?:y|ic)",
    "x-ray": r"x-?rays?|radiogra(?:ph|phs|phy|phic|m)|roentgenogram",
    "fundoscopy": r"fundus photograph(?:y|s)?|fundoscop(?:y|ic)|ophthalmoscop(?:y|ic)",
    "microscopy": r"microscop(?:y|ic)|micrographs?|histolog(?:y|ical|ic)",
}

# Where left and right are the patient's unless the picture is named.
BODY_IMAGING = (
    "angiography",
    "cbct",
    "ct",
    "echocardiography",
    "fluoroscopy",
    "fundoscopy",
    "mammography",
    "mri",
    "pet",
    "ultrasound",
    "x-ray",
)

_HUES = {
    "pink": r"pink(?:ish)?",
    "red": r"red(?:dish)?",
    "white": r"whit(?:e|ish)",
    "yellow": r"yellow(?:ish)?",
    "grey": r"gr[ea]y(?:ish)?",
    "orange": r"orang(?:e|ish|ey)",
    "brown": r"brown(?:ish)?",
    "blue": r"blu(?:e|ish)",
    "purple": r"purpl(?:e|ish)",
    "violet": r"violet",
    "black": r"black(?:ish)?",
    "green": r"green(?:ish)?",
    "burgundy": r"burgundy",
    "tan": r"tan",
    "beige": r"beige",
    "crimson": r"crimson",
    "scarlet": r"scarlet",
    "maroon": r"maroon",
    "magenta": r"magenta",
    "golden": r"gold(?:en)?",
}
# Shades are colours of their own: pale pink is not pink.
_SHADES = {"pale": r"pale|light|faint", "dark": r"dark|deep", "bright": r"bright|vivid"}
COLOURS = {
    **{f"{s} {h}": f"(?:{sp})(?:ly)?[ -](?:{hp})" for s, sp in _SHADES.items() for h, hp in _HUES.items()},
    **_HUES,
}

SIZE_WORDS = {
    "small": r"small|tiny|little|minute",
    "medium": r"medium(?:-sized)?|moderate(?:ly)?[ -]sized",
    "large": r"large|big|huge|giant|sizeable",
}
NUMBER_WORDS = {
    word: number
    for number, word in enumerate(
        (
            *(
                "zero",
                "one",
                "two",
                "three",
                "four",
                "five",
                "six",
                "seven",
                "eight",
                "nine",
                "ten",
                "eleven",
            ),
            *(
                "twelve",
                "thirteen",
                "fourteen",
                "fifteen",
                "sixteen",
                "seventeen",
                "eighteen",
                "nineteen",
                "twenty",
            ),
        )
    )
}

# What a side can belong to. Whatever follows left or right and is not a part of the picture counts as anatomy
# too; these names only tell one structure from another.
STRUCTURES = {
    "lung": r"lungs?|pulmonary|pleura|pleural|hemithora(?:x|ces)|chest|thora(?:x|cic)",
    "lobe": r"lobes?",
    "breast": r"breasts?",
    "eye": r"eyes?|retina|ocular|orbit(?:al)?",
    "kidney": r"kidneys?|renal",
    "ventricle": r"ventric(?:le|les|ular)",
    "atrium": r"atri(?:um|a|al)",
    "heart": r"heart|cardiac|coronary",
    "artery": r"arter(?:y|ies)|arterial|carotid|aorta",
    "vein": r"veins?|venous",
    "colon": r"colon|colonic",
    "brain": r"brain|cerebral|frontal|parietal|temporal|occipital|hemispheres?",
    "hip": r"hips?|femur|femoral|femora|thighs?",
    "knee": r"knees?|patella|tibia|tibial",
    "leg": r"legs?|lower (?:limb|extremity)",
    "ankle": r"ankles?|foot|feet|heel",
    "shoulder": r"shoulders?|humerus|humeral|clavicle",
    "arm": r"arms?|forearm|elbow|radius|ulna|ulnar|radial",
    "hand": r"(?<!left-)(?<!right-)hands?|wrists?|thumb|fingers?",
    "ear": r"ears?",
    "jaw": r"mandib(?:le|ular)|maxill(?:a|ary)|molars?|canines?|incisors?|premolars?",
    "ovary": r"ovar(?:y|ies|ian)|adnexa|adnexal",
    "testis": r"test(?:is|es|icle|icular)",
    "liver": r"liver|hepatic",
    "ureter": r"ureters?|ureteric|ureteral",
    "abdomen": r"abdom(?:en|inal)",
    "pelvis": r"pelv(?:is|ic)",
    "skull": r"skull|cranial|cranium",
    "spine": r"spine|spinal|vertebra(?:e|l)?|lumbar|cervical|sacr(?:um|al)",
    "neck": r"neck",
    "bladder": r"bladder",
    "gallbladder": r"gall ?bladder|cystic duct",
    "stomach": r"stomach|gastric",
    "duodenum": r"duoden(?:um|al)",
    "oesophagus": r"o?esophag(?:us|eal)",
    "rectum": r"rect(?:um|al)",
    "bowel": r"bowels?|intestin(?:e|es|al)",
    "pancreas": r"pancrea(?:s|tic)",
    "spleen": r"spleen|splenic",
    "uterus": r"uter(?:us|ine)|cervix",
    "prostate": r"prostat(?:e|ic)",
    "thyroid": r"thyroid",
    "trachea": r"trachea|tracheal|bronch(?:us|i|ial)",
    "tooth": r"tooth|teeth|dental",
}
# Structures that something else in the sentence already names.
IMPLIED_STRUCTURES = {
    "colonoscopy": frozenset(["colon", "bowel", "rectum"]),
    "gastroscopy": frozenset(["stomach", "oesophagus", "duodenum"]),
    "oesophagitis": frozenset(["oesophagus"]),
    "barrett's oesophagus": frozenset(["oesophagus"]),
    "z-line": frozenset(["oesophagus"]),
    "ulcerative colitis": frozenset(["colon", "bowel"]),
}
# Letters that name a side of the body; read in capitals only, since `os` and `ou` are words elsewhere.
SIDE_LETTERS = {
    "OD": ("right", "eye"),
    "OS": ("left", "eye"),
    "OU": ("both", "eye"),
    "RUL": ("right", "lobe"),
    "RML": ("right", "lobe"),
    "RLL": ("right", "lobe"),
    "LUL": ("left", "lobe"),
    "LLL": ("left", "lobe"),
    "RUQ": ("right", ""),
    "RLQ": ("right", ""),
    "LUQ": ("left", ""),
    "LLQ": ("left", ""),
    "LV": ("left", "ventricle"),
    "RV": ("right", "ventricle"),
    "RCA": ("right", "artery"),
}

# Words that carry a finding's course, certainty or direction.
QUALIFIERS = {
    **{
        word: word
        for word in (
            *("acute", "chronic", "benign", "malignant", "mild", "moderate", "severe", "partial", "complete"),
            *("anterior", "posterior", "superior", "inferior", "medial", "proximal", "distal", "oblique"),
            *(
                "axial",
                "sagittal",
                "coronal",
                "focal",
                "diffuse",
                "open",
                "closed",
                "congenital",
                "recurrent",
            ),
            *("bony", "pedunculated", "flat", "raised", "ulcerated", "asymmetric", "symmetric", "smooth"),
            *("granular", "irregular", "round", "oval", "elongated", "blurred"),
        )
    },
    "lateral": r"lateral(?!ly)",
    "uncertain": r"possibl[ey]|probabl[ey]|suspected|suspicious|suggest(?:ive|ing|s)|likely|presumed",
    "preoperative": r"pre-?operative(?:ly)?|before (?:the )?(?:surgery|operation|treatment)",
    "postoperative": r"post-?operative(?:ly)?|after (?:the )?(?:surgery|operation|treatment)",
    "male": r"male|man|boy",
    "female": r"female|woman|girl",
}
# The picture itself: a number or an article before these counts pictures, not findings.
PICTURE = (
    r"images?|pictures?|photos?|photographs?|views?|frames?|scenes?|visuals?|visuali[sz]ations?|illustrations?"
    r"|snapshots?|depictions?|renderings?|stills?|shots?|representations?|captures?|field of view|screenshots?"
)

NEGATION = (
    r"not (?:a single|one|any)|not|cannot|can't|n't|no|none(?: of the)?|never|neither|nor|without(?: any)?"
    r"|free (?:of|from)|clear of|devoid of|empty of|bare of|negative for"
    r"|lack(?:s|ing)?(?: of)?|absence of|absent|missing|nowhere|exclud(?:e|es|ing|ed)|omit(?:s|ting|ted)?"
    r"|leav(?:e|es|ing) out|left out|avoid(?:s|ing)?|fail(?:s|ing)? to|rul(?:e|ed|ing) out|zero|0(?=\s)|nil"
)
# Cancelled by a `not` before it: "not free of polyps".
INVERTED = re.compile(
    r"without|free|clear|devoid|lack|absen|missing|exclud|omit|leav|left out|avoid|fail|negative"
)
