"""`tidemark keys` and `tidemark token`: who may send updates, and until when."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final

import typer

from operator_cli.conventions import Json, OperatorSettings, print_json, with_exit_codes
from shared.settings import load

keys_app = typer.Typer(
    no_args_is_help=True,
    help="The keys that sign tokens. Two are good at once: the newest one signs, the one before "
    "it still counts.",
)
token_app = typer.Typer(no_args_is_help=True, help="Tokens: who may do what to which app.")

_DAY_S: Final = 86_400

SigningKeys = Annotated[
    Path | None,
    typer.Option(
        "--signing-keys", metavar="FILE", help="Default: TIDEMARK_AUTH__SIGNING_KEYS_FILE."
    ),
]
PublicKeys = Annotated[
    Path | None,
    typer.Option("--public-keys", metavar="FILE", help="Default: TIDEMARK_AUTH__PUBLIC_KEYS_FILE."),
]


@keys_app.command(
    "new", epilog="Example: tidemark keys new --signing-keys keys.json --public-keys public.json"
)
@with_exit_codes
def new_keys(
    signing_keys: SigningKeys = None, public_keys: PublicKeys = None, as_json: Json = False
) -> None:
    """Make the first key. Keep the signing keys secret; services need only the public ones."""
    from operator_cli import keys

    auth = load(OperatorSettings).auth
    signing, public = signing_keys or auth.signing_keys_file, public_keys or auth.public_keys_file
    key_id = keys.create(signing, public)
    if as_json:
        print_json({"key": key_id, "signing_keys": str(signing), "public_keys": str(public)})
    else:
        typer.echo(f"{key_id}: signs with {signing} (keep it secret), is verified with {public}")


@keys_app.command("rotate", epilog="Example: tidemark keys rotate")
@with_exit_codes
def rotate_keys(
    signing_keys: SigningKeys = None, public_keys: PublicKeys = None, as_json: Json = False
) -> None:
    """Add a key that signs from now on. The one before stays good; any older one goes.

    Give the public keys to the services before you issue tokens with the new one.
    """
    from operator_cli import keys

    auth = load(OperatorSettings).auth
    key_id, gone = keys.rotate(
        signing_keys or auth.signing_keys_file, public_keys or auth.public_keys_file
    )
    if as_json:
        print_json({"key": key_id, "retired": gone})
        return
    typer.echo(f"{key_id}: signs from now on")
    for each in gone:
        typer.echo(f"{each}: retired, its tokens are good no longer")


@token_app.command(
    "issue",
    epilog="Examples: tidemark token issue --app d1f7… --days 90 · "
    "tidemark token issue --all-apps --right read --days 1",
)
@with_exit_codes
def issue_token(
    *,
    app: Annotated[str | None, typer.Option("--app", metavar="ID", help="The app.")] = None,
    all_apps: Annotated[bool, typer.Option("--all-apps", help="Every app instead.")] = False,
    right: Annotated[
        list[str] | None,
        typer.Option("--right", help="update or read; may be given twice. Default: both."),
    ] = None,
    days: Annotated[int, typer.Option(min=1, max=3_650, help="How long it is good.")],
    signing_keys: SigningKeys = None,
    as_json: Json = False,
) -> None:
    """Print a token. It is kept nowhere; its ID, for revoking it, is on stderr."""
    from operator_cli import keys
    from operator_cli.subscriptions import canonical
    from shared.errors import Misconfigured
    from shared.tokens import EVERY_APP, RIGHTS, issue

    if (app is None) is not all_apps:
        raise Misconfigured("Give either --app or --all-apps.")
    rights = [each for each in RIGHTS if right is None or each in right]
    if right and set(right) != set(rights):
        raise Misconfigured("A right is update or read.")
    key, *_ = keys.read_signing_keys(signing_keys or load(OperatorSettings).auth.signing_keys_file)
    whose = EVERY_APP if app is None else canonical("--app", app)
    token, grant = issue(key, app=whose, rights=rights, valid_s=days * _DAY_S)
    until = datetime.fromtimestamp(grant.expires_at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    if as_json:
        print_json({"token": token, "id": grant.token_id, "app": whose, "expires_at": until})
        return
    typer.echo(token)
    typer.echo(f"token {grant.token_id}, good until {until}", err=True)


@token_app.command("revoke", epilog="Example: tidemark token revoke 5c0e7d1f2a9b4c68")
@with_exit_codes
def revoke_tokens(
    token_ids: Annotated[list[str], typer.Argument(metavar="ID…", help="IDs, not the tokens.")],
    revoked_tokens: Annotated[
        Path | None,
        typer.Option(
            "--revoked-tokens",
            metavar="FILE",
            help="Default: TIDEMARK_AUTH__REVOKED_TOKENS_FILE.",
        ),
    ] = None,
) -> None:
    """Make tokens good no longer: services read the list of them again by themselves."""
    from operator_cli import keys
    from shared.errors import Misconfigured

    if not all(each.isalnum() for each in token_ids):
        raise Misconfigured(
            "That is no token ID: those have letters and digits only; `tidemark token issue` "
            "prints one on stderr."
        )
    path = revoked_tokens or load(OperatorSettings).auth.revoked_tokens_file
    count = keys.revoke(path, token_ids)
    typer.echo(f"{path}: {count} revoked in all")
