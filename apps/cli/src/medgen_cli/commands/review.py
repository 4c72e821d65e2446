"""`medgen review`: blind expert review in the browser, and what the ratings mean."""

import contextlib
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from medgen_cli.commands.options import AsJson
from medgen_cli.commands.review_results import power, stats
from medgen_cli.output import print_note, print_result, table

review = typer.Typer(name="review", invoke_without_command=True)

_Study = Annotated[Path, typer.Argument(metavar="STUDY", help="The study file, study.json.")]
_Database = Annotated[
    str | None,
    typer.Option(
        "--database",
        metavar="FILE_OR_URL",
        help="Where the ratings are: an SQLite file or postgresql://...; ratings.sqlite beside the study.",
    ),
]
_Port = Annotated[int, typer.Option("--port", min=0, max=65535, help="0 takes a free one.")]
_Seed = Annotated[int, typer.Option("--seed", min=0, help="Seed.")]


@review.callback()
def _review(context: typer.Context) -> None:
    """Blind expert review in the browser, and what the ratings mean."""
    if context.invoked_subcommand is None:
        print(context.get_help())


def create(
    sets: Annotated[
        list[str],
        typer.Option("--set", metavar="MODEL=DATASET", help="Images of one model; may be given again."),
    ],
    real: Annotated[Path, typer.Option("--real", metavar="DATASET", help="Real images: the references.")],
    title: Annotated[str, typer.Option("--title", help="Shown to the raters; must not name a model.")],
    out: Annotated[Path, typer.Option("--out", metavar="STUDY", help="The study file to write.")] = Path(
        "study.json"
    ),
    prompts: Annotated[
        Path | None,
        typer.Option(
            "--prompts", metavar="FILE", help="Prompts (.txt, .csv, .jsonl); else those that all sets have."
        ),
    ] = None,
    alternating: Annotated[
        bool,
        typer.Option("--alternating", help="Prompts alternate: original (index 0, 2 ...), then rephrased."),
    ] = False,
    images: Annotated[int, typer.Option("--images", min=1, help="Images of each model per prompt.")] = 10,
    references: Annotated[int, typer.Option("--references", min=1, help="Real images per prompt.")] = 10,
    hidden_real: Annotated[
        bool, typer.Option("--hidden-real", help="Also rate real images under a letter of their own.")
    ] = False,
    rank_real: Annotated[
        bool, typer.Option("--rank-real/--no-rank-real", help="References take part in the ranking.")
    ] = True,
    repeats: Annotated[
        int, typer.Option("--repeats", min=0, help="Pages shown twice, for agreement within a rater.")
    ] = 0,
    attention: Annotated[
        int, typer.Option("--attention", min=0, help="Pages that say which value to give.")
    ] = 0,
    image_side: Annotated[
        int | None,
        typer.Option("--image-side", min=32, max=2048, help="Side of the images shown; by the smallest."),
    ] = None,
    seed: _Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Make a study from data sets.

    One of synthetic images per model, and one of real images. Orders, letters and draws follow from the seed. The
    file is fixed once made; where everything came from is told in STUDY.provenance.json.
    """
    from medgen_review.create import create_study, provenance_file
    from medgen_review.study import Design

    from medgen_cli.stages.review import named_paths

    design: dict[str, Any] = {
        "hidden_real": hidden_real,
        "rank_real": rank_real,
        "num_repeats": repeats,
        "num_attention": attention,
    }
    if image_side is not None:
        design["image_side"] = image_side
    made = create_study(
        named_paths(sets, flag="--set"),
        real,
        out,
        title=title,
        prompts=prompts,
        alternating=alternating,
        images_per_set=images,
        references_per_prompt=references,
        design=Design(**design),
        seed=seed,
    )
    print_result(
        {
            "study": str(out),
            "digest": made.digest,
            "models": list(made.models),
            "num_prompts": len(made.prompts),
            "provenance": str(provenance_file(out)),
        },
        as_json=as_json,
        lines=[
            f"{out}: {len(made.prompts)} prompts, {len(made.models)} models ({', '.join(made.models)})",
            f"next: medgen review raters {out} --add NAME; medgen review serve {out}",
        ],
    )


def raters(
    study: _Study,
    add: Annotated[list[str] | None, typer.Option("--add", metavar="NAME", help="Enrol a rater.")] = None,
    renew: Annotated[
        list[str] | None, typer.Option("--renew", metavar="NAME", help="Give a rater a new code.")
    ] = None,
    revoke: Annotated[
        list[str] | None, typer.Option("--revoke", metavar="NAME", help="Close the study to a rater.")
    ] = None,
    reopen: Annotated[
        list[str] | None,
        typer.Option("--reopen", metavar="NAME", help="Let a rater who has finished change ratings again."),
    ] = None,
    database: _Database = None,
    as_json: AsJson = False,
) -> None:
    """Enrol raters and see how far they are.

    The code of a rater is printed once and kept only as a hash; a lost one is renewed.
    """
    from medgen_cli.stages.review import number_of, open_store, rater_states

    codes: dict[str, str] = {}
    content, store = open_store(study, database, must_exist=not add)
    with store:
        for name in add or []:
            enrolled = store.enrol(name)
            codes[enrolled.rater.name] = enrolled.token
        for name in renew or []:
            codes[name] = store.renew(number_of(store, name)).token
        for name in revoke or []:
            store.revoke(number_of(store, name))
        for name in reopen or []:
            store.reopen(number_of(store, name))
        states = rater_states(content, store)
    rows = [[each.name, each.state, f"{each.num_given} of {each.num_asked}"] for each in states]
    print_result(
        {"raters": [asdict(each) for each in states], "codes": codes},
        as_json=as_json,
        lines=[
            *table(rows, header=["rater", "state", "values given"]),
            *(f"code of {name}: {code}" for name, code in codes.items()),
        ],
    )


def serve(
    study: _Study,
    database: _Database = None,
    host: Annotated[str, typer.Option("--host", help="Address to listen at.")] = "127.0.0.1",
    port: _Port = 8000,
    allow_public: Annotated[
        bool,
        typer.Option("--allow-public", help="Other computers may reach it; needs TLS files or a proxy too."),
    ] = False,
    tls_cert: Annotated[
        Path | None, typer.Option("--tls-cert", metavar="PEM", help="Certificate chain.")
    ] = None,
    tls_key: Annotated[Path | None, typer.Option("--tls-key", metavar="PEM", help="Its key.")] = None,
    behind_proxy: Annotated[
        str | None,
        typer.Option("--behind-proxy", metavar="URL", help="https address of a TLS proxy in front."),
    ] = None,
    hostnames: Annotated[
        list[str] | None, typer.Option("--hostname", help="Name that raters type, where it is not --host.")
    ] = None,
) -> None:
    """Serve a study until Ctrl-C; every rating is on disk before the page says so."""
    from medgen_review.server.serving import serve as serve_study

    from medgen_cli.stages.review import database_of

    # Ctrl-C is the way to end it; the server may also end by itself at the same signal.
    with contextlib.suppress(KeyboardInterrupt):
        serve_study(
            study,
            database_of(study, database),
            host=host,
            port=port,
            allow_public=allow_public,
            tls_cert=tls_cert,
            tls_key=tls_key,
            behind_proxy=behind_proxy,
            hostnames=hostnames or (),
            on_ready=_print_address,
        )
    print_note("stopped; everything that was rated is kept")


def _print_address(address: str) -> None:
    print_note(f"{address}  (Ctrl-C stops; everything that was rated is kept)")


def export(
    study: _Study,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder to write to.")],
    database: _Database = None,
    as_json: AsJson = False,
) -> None:
    """Write the ratings as files: ratings.jsonl, ratings.csv, ranks.csv, audit.jsonl.

    The audit trail is checked first; it may be done while the study is served.
    """
    from medgen_review.export import export_ratings

    from medgen_cli.stages.review import open_store

    content, store = open_store(study, database, must_exist=True)
    with store:
        exported = export_ratings(content, store, out)
    lines = [f"{exported.ratings_jsonl}: {exported.num_values} of {exported.num_expected} values"]
    if exported.unfinished:
        lines.append(f"not finished: {', '.join(exported.unfinished)}")
    result = {
        key: str(value) if isinstance(value, Path) else value for key, value in asdict(exported).items()
    }
    print_result(result, as_json=as_json, lines=lines)


def demo(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder of the study.")] = Path(
        "runs/review-demo"
    ),
    num_raters: Annotated[int, typer.Option("--raters", min=1, max=100, help="Raters to enrol.")] = 2,
    port: _Port = 8000,
    served: Annotated[bool, typer.Option("--serve/--no-serve", help="Serve it, or only make it.")] = True,
    seed: _Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Open a whole study on drawn phantoms, in one command and without a download.

    Run it again to continue: ratings are kept, raters get new codes.
    """
    from medgen_review.demo import write_demo_study
    from medgen_review.store import RatingStore

    from medgen_cli.stages.review import database_of

    study_file = out / "study.json"
    content = write_demo_study(out, seed)
    codes = {}
    with RatingStore.open(database_of(study_file, None), content) as store:
        enrolled = {rater.name: rater.number for rater in store.raters()}
        for name in (f"rater {number + 1}" for number in range(num_raters)):
            given = store.renew(enrolled[name]) if name in enrolled else store.enrol(name)
            codes[name] = given.token
    lines = [f"{study_file}: {len(content.prompts)} prompts, {len(content.models)} models"]
    lines += [f"code of {name}: {code}" for name, code in codes.items()]
    print_result({"study": str(study_file), "codes": codes}, as_json=as_json, lines=lines)
    if served:
        serve(study_file, port=port)


for _command in (create, raters, serve, export, stats, power, demo):
    review.command()(_command)
