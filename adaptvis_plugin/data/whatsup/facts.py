"""Everything published about WhatsUp: where the files are, and what they must be."""

from __future__ import annotations

from adaptvis_plugin.data.dataset import Facts


class Subset(Facts):
    """The files of one subset. Some were published without a checksum, which is then None."""

    subset: str
    rows: int
    questions: str
    questions_sha256: str
    annotations: str
    annotations_id: str
    annotations_sha256: str | None = None
    images: str
    images_id: str
    images_sha256: str | None = None

    @property
    def by_id(self) -> str:
        """The name of a picture that is listed by id, with ``{}`` for the id, which COCO pads to twelve digits."""
        return "val2017/{:0>12}.jpg" if self.images.startswith("val2017") else "vg_images/{}.jpg"


class Subsets(Facts):
    """The six subsets by the names of their tables."""

    controlled_a: Subset = Subset(
        subset="Controlled_Images_A",
        rows=412,
        questions="Controlled_Images_A_with_answer_four_options.jsonl",
        questions_sha256="96cc5ecc0ed899b8508596b67bfa95a8976abfaf685269b32d53be1d176bd7fc",
        annotations="controlled_images_dataset.json",
        annotations_id="1ap8mmmpQjLIjPGuplkpBgc1hoEHCj4hm",
        annotations_sha256="77ee94ae35552ed643ecd47f700daa178e10051458baae99d5c4c5d5922590d3",
        images="controlled_images.tar.gz",
        images_id="19KGYVQjrV3syb00GgcavB2nZTW5NXX0H",
        images_sha256="4fc005e7ab1e2ac5e5836d2456dd9ae930239c44953b0b2d3e9523f6ad5b1a69",
    )
    controlled_b: Subset = Subset(
        subset="Controlled_Images_B",
        rows=408,
        questions="Controlled_Images_B_with_answer_four_options.jsonl",
        questions_sha256="f63ed5edd55ad88dc77716fbeccb6521c5ea3b63bfdd9f837e3787d187f93a1f",
        annotations="controlled_clevr_dataset.json",
        annotations_id="1unNNosLbdy9NDjgj4l8fsQP3WiAAGA6z",
        annotations_sha256="2c0df1ab59d13d71442752b4b3c7353114d712a785b0850ec22e11c2b0c474c9",
        images="controlled_clevr.tar.gz",
        images_id="13jdBpg8t3NqW3jrL6FK8HO93vwsUjDxG",
        images_sha256="df8b23af7dc73c4bf98937777b7a5d85aab42598eace82fa7adad5802df2c493",
    )
    coco_one: Subset = Subset(
        subset="COCO_QA_one_obj",
        rows=2247,
        questions="COCO_QA_one_obj_with_answer_four_options.jsonl",
        questions_sha256="b48b5686ecfeab2ad62a11b5b167f1ba41e16157e798c1c3d482f33e7cc18d6e",
        annotations="coco_qa_one_obj.json",
        annotations_id="1RsMdpE9mmwnK4zzMPpC1-wTU_hNis-dq",
        images="val2017.zip",
        images_id="1zp5vBRRM4_nSik6o9PeVspDvOsHgPT4l",
    )
    coco_two: Subset = Subset(
        subset="COCO_QA_two_obj",
        rows=440,
        questions="COCO_QA_two_obj_with_answer_four_options.jsonl",
        questions_sha256="2ed88e73462b2660e4b59a7c8f0beedcf58551cf6574602b6d34e4d3d9bf9ffb",
        annotations="coco_qa_two_obj.json",
        annotations_id="1TCEoM0mgFmz8T4cF7PQ3XJmO6JjtiQ-s",
        images="val2017.zip",
        images_id="1zp5vBRRM4_nSik6o9PeVspDvOsHgPT4l",
    )
    vg_one: Subset = Subset(
        subset="VG_QA_one_obj",
        rows=1160,
        questions="VG_QA_one_obj_with_answer_six_options.jsonl",
        questions_sha256="c2adb86edbe1461800268729ddeadf24bac2a7cd251e5262387849bc0d72fab3",
        annotations="vg_qa_one_obj.json",
        annotations_id="1ARMRzRdohs9QTr1gpIfzyUzvW20wYp_p",
        images="vg_images.tar.gz",
        images_id="1idW7Buoz7fQm4-670n-oERw9U-2JLJvE",
    )
    vg_two: Subset = Subset(
        subset="VG_QA_two_obj",
        rows=291,
        questions="VG_QA_two_obj_with_answer_six_options.jsonl",
        questions_sha256="9469a37098e5b69fcbc8d5c72ea5b2f60e348794f405d063af46f0bbdea01370",
        annotations="vg_qa_two_obj.json",
        annotations_id="1sjVG5O3QMY8s118k7kQM8zzDZH12i_95",
        images="vg_images.tar.gz",
        images_id="1idW7Buoz7fQm4-670n-oERw9U-2JLJvE",
    )


class WhatsUpFacts(Facts):
    """The authors' files, and the Hub data sets with the same rows.

    Attributes:
        drive_url: The address of a file on Google Drive, up to its id.
        questions_url: The address of a question file of Chen et al., up to its name.
        whatsup_hub: The Hub data sets. All have the same rows and columns; the next is asked if one is unavailable.
        whatsup: The files of the subsets.
    """

    drive_url: str = "https://drive.google.com/uc?id="
    questions_url: str = (
        "https://raw.githubusercontent.com/shiqichen17/AdaptVis/3b413999cdb537e5f2d87464dd5bc920fa7b428d/prompts/"
    )
    whatsup_hub: tuple[str, ...] = ("ServiceNow/whatsup_all", "joaomonteirof/whatsup_all_perturbed")
    whatsup: Subsets = Subsets()
