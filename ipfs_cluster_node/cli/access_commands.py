"""`token` and `auth`: join tokens, delegations and permissions."""

import json
import shlex
import sys
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any

import click

from ipfs_cluster_node.cli.completing import (
    completed_delegations,
    completed_members,
    completed_tokens,
)
from ipfs_cluster_node.cli.groups import Group
from ipfs_cluster_node.cli.ids import shown_ids, wide_option
from ipfs_cluster_node.cli.join_hint import Invitation
from ipfs_cluster_node.cli.output import (
    DURATION,
    capturing,
    client_command,
    confirm,
    exact_time_text,
    json_document,
    one_of,
    opener,
    print_done,
    print_json,
    print_views,
    run_client,
    say,
    text_of,
    verbose,
)
from ipfs_cluster_node.core.authorization import GRANTS, grant_text
from ipfs_cluster_node.core.errors import ClusterError, Exit, Reason
from ipfs_cluster_node.core.model import Role
from ipfs_cluster_node.core.names import DELEGATION, JOIN_TOKEN
from ipfs_cluster_node.core.ucan.commands import Command

JOIN_START = "cj1."
"""Before `<pin>.<id>.<secret>`."""


@click.group(cls=Group)
def token() -> None:
    """Join tokens, and delegations of your permissions to others."""


@click.group(cls=Group)
def auth() -> None:
    """Permissions: what you and others may do."""


@token.command("create")
@click.option("--role", required=True, type=one_of(Role), help="The joiner's role.")
@click.option("--grant", type=one_of(GRANTS), help="A client's permissions. [default: user]")
@click.option(
    "--namespace",
    default="",
    help="Limit them to this namespace; 'team-a/*' is all below team-a. For user and reader.",
)
@click.option("--ttl", type=DURATION, default="1h", show_default=True, help="How long it is valid.")
@click.option(
    "--uses", type=click.IntRange(1, 50), default=1, help="How many times it can be used."
)
@click.option("--approve", is_flag=True, help="Each joiner waits for `node approve`.")
@click.option("--address", multiple=True, help="The only host:port that the joiner may advertise.")
@client_command
def create_join_token(
    profile: str | None,
    *,
    role: str,
    grant: str | None,
    namespace: str,
    ttl: timedelta,
    uses: int,
    approve: bool,
    address: tuple[str, ...],
    as_json: bool,
) -> None:
    """Make a join token, and print the command that joins with it.

    The token names masters that let joiners in. It is shown this once; keep it secret.
    """
    answer = run_client(
        profile,
        lambda client: client.create_join_token(
            role,
            ttl=ttl,
            uses_max=uses,
            addresses=address,
            grant=grant or "",
            namespace=namespace,
            needs_approval=approve,
        ),
    )
    made = Invitation(answer.token, answer.enrolment_endpoints, role=role, addresses=address)
    if as_json:
        print_json(json_document(answer) | made.document())
        return
    made.show("the other machine")
    if approve:
        say("joiners wait for approval: see `node joiners`, then `node approve NODE_ID`", err=True)


@token.command("delegate")
@click.argument("audience", shell_complete=completed_members)
@click.argument("command")
@click.option(
    "--where",
    multiple=True,
    metavar="NAME=VALUE",
    help="Only if an argument has this value; a star after a slash matches anything.",
)
@click.option(
    "--most", multiple=True, metavar="NAME=NUMBER", help="Only if an argument is at most this."
)
@click.option("--policy", help='A policy in the JSON form of UCAN: [["==", ".owner", "x"]].')
@click.option("--ttl", type=DURATION, default="7d", show_default=True, help="How long it is valid.")
@click.option(
    "--print",
    "only_print",
    is_flag=True,
    help="Print the delegation; do not store it in the cluster.",
)
@client_command
def delegate(
    profile: str | None,
    *,
    audience: str,
    command: str,
    where: tuple[str, ...],
    most: tuple[str, ...],
    policy: str | None,
    ttl: timedelta,
    only_print: bool,
    as_json: bool,
) -> None:
    """Let AUDIENCE use COMMAND, such as /task/submit, within your own permissions.

    AUDIENCE is a did:key, or the name of a client or node; the answer shows both.

    The cluster stores the delegation, so AUDIENCE needs only its own certificate. With --print it
    is printed instead, for you to send to AUDIENCE, who uses it with `--ucan`.
    """
    from ipfs_cluster_node.cli.delegating import delegated, limits_text

    made = run_client(
        profile,
        lambda client: delegated(
            client,
            profile,
            audience=audience,
            command=command,
            where=where,
            most=most,
            policy=policy,
            ttl=ttl,
            keep=not only_print,
        ),
    )
    if as_json:
        print_json({**asdict(made), "kept": not only_print})
        return
    until = datetime.fromtimestamp(made.expires_s, UTC)
    lets = f"lets {made.audience} do {command}{limits_text(where, most, policy)}"
    if only_print:
        say(made.container)
        say(f"it {lets}", err=True)
    else:
        say(f"{made.cid} {lets}")
    say(f"until {until:%F %T} UTC", err=True)


@token.command("inspect")
@click.argument("text", shell_complete=completed_delegations)
@client_command
def inspect(profile: str | None, text: str, *, as_json: bool) -> None:
    """Decode TEXT: a container or its file, the CID of a stored delegation, or a join token.

    The beginning of a CID is enough.
    """
    from ipfs_cluster_node.cli.delegating import inspected

    if text.startswith(JOIN_START):
        from ipfs_cluster_node.adapters.keys.tokens import parse_token, split_token

        bare, endpoints = split_token(text)
        parts = parse_token(bare)
        document = {"kind": "join token", "token_id": parts.token_id, "ca_pin": parts.ca_pin}
        at = f", at {', '.join(endpoints)}" if endpoints else ""
        print_done(
            document | {"enrolment_endpoints": list(endpoints)},
            f"join token {parts.token_id}, CA {parts.ca_pin}{at}",
            as_json,
        )
        return
    if text.startswith(("bafy", "zdpu")):

        async def find(client: Any) -> Any:
            cid = await client.lookups.delegation_cid(text)
            return await client.list_delegations(cid_prefix=cid)

        found = run_client(profile, find)
        if not found:
            raise ClusterError(
                Reason.DELEGATION_NOT_FOUND, f"no stored delegation {text} that you may see"
            )
        _print_delegations(found, as_json, wide=True)
        return
    _print_delegations(inspected(text_of(text)), as_json, wide=True)


@token.command("list")
@click.option(
    "--audience",
    default="",
    shell_complete=completed_members,
    help="Only those to this did:key, or client or node by name.",
)
@click.option("--join", "join_tokens", is_flag=True, help="List join tokens instead.")
@wide_option
@client_command
def list_delegations(
    profile: str | None, *, audience: str, join_tokens: bool, wide: bool, as_json: bool
) -> None:
    """List the stored delegations that you may see, or the join tokens."""
    if join_tokens:
        tokens = run_client(profile, lambda client: client.list_join_tokens())
        _print_join_tokens(tokens, as_json, wide=wide)
        return
    found = run_client(profile, lambda client: client.list_delegations(audience=audience))
    _print_delegations(found, as_json, wide=wide)


@token.command("revoke")
@click.argument("cid", metavar="CID_OR_ID", shell_complete=completed_tokens)
@click.option(
    "--path",
    "path_text",
    default="",
    help="A container with its chain, if the cluster does not store it.",
)
@client_command
def revoke_delegation(profile: str | None, *, cid: str, path_text: str, as_json: bool) -> None:
    """Revoke a delegation, and everything delegated from it. This can't be undone.

    Also revokes a join token, given by its id or in full. The beginning of an id is enough; of a
    CID it must include `bafyrei`.
    """
    from ipfs_cluster_node.cli.delegating import is_cid, tokens_in

    async def revoke_join_token(client: Any) -> str:
        given = cid.split(".")[2] if cid.startswith(JOIN_START) else cid
        token_id: str = await client.lookups.token_id(given)
        await client.revoke_join_token(token_id)
        return token_id

    async def revoke(client: Any) -> str:
        whole: str = await client.lookups.delegation_cid(cid)
        await client.revoke_delegation(whole, path=path)
        return whole

    if not is_cid(cid):
        token_id = run_client(profile, revoke_join_token)
        said = f"join token {token_id} is revoked"
        print_done({"token_id": token_id, "revoked": True}, said, as_json)
        return
    path = tokens_in(text_of(path_text)) if path_text else []
    whole = run_client(profile, revoke)
    print_done({"cid": whole, "revoked": True}, f"delegation {whole} is revoked", as_json)


@auth.command("whoami")
@wide_option
@client_command
def whoami(profile: str | None, *, wide: bool, as_json: bool) -> None:
    """Say who you are in the cluster, and what you may do; with -v by which delegations."""
    from ipfs_cluster_node.cli.rights_text import rights_lines

    answer = run_client(profile, lambda client: client.get_caller())
    if as_json:
        print_json(json_document(answer))
        return
    say(*rights_lines(answer))
    if verbose() or wide:
        _print_delegations(answer.delegations, as_json, wide=wide)


@auth.command("narrow")
@click.argument("member", metavar="CLIENT", shell_complete=completed_members)
@click.option("--namespace", default="", help="To this namespace; 'team-a/*' is all below team-a.")
@click.option(
    "--command", "commands", multiple=True, help="Only this command, such as /task. [default: all]"
)
@click.option(
    "--where", multiple=True, metavar="NAME=VALUE", help="To calls with this argument, besides."
)
@click.option(
    "--ttl", type=DURATION, default="90d", show_default=True, help="How long it is valid."
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@client_command
def narrow(
    profile: str | None,
    *,
    member: str,
    namespace: str,
    commands: tuple[str, ...],
    where: tuple[str, ...],
    ttl: timedelta,
    yes: bool,
    as_json: bool,
) -> None:
    """Limit what CLIENT may do on tasks and files to a namespace, or to other arguments.

    It keeps each command that its grant brought, within the limit, for as long as --ttl says; what
    is not narrowed is renewed with its certificate as before. This can't be undone: only a new
    delegation gives more again.
    """
    from ipfs_cluster_node.cli.narrowing import Narrowing

    narrowing = Narrowing(profile, member, namespace, commands, where, ttl)
    named, wide = run_client(profile, narrowing.find)
    if not yes:
        listed = ", ".join(each.command for each in wide)
        confirm(f"Limit {listed} of {named}?")
    made = run_client(profile, narrowing.carry_out)
    document = {"did": narrowing.did, "narrowed": [asdict(each) for each in made]}
    said = [f"{each.command} is limited: {each.cid}, not {each.revoked_cid}" for each in made]
    print_done(document, "\n".join(said), as_json)


def _explain(profile: str | None, who: str, what: str, as_json: bool) -> None:  # noqa: FBT001
    from ipfs_cluster_node.cli.capture import CapturedCall
    from ipfs_cluster_node.cli.delegating import audience_of, is_member, tokens_in
    from ipfs_cluster_node.cli.main import main

    words = shlex.split(what)
    mark = capturing.set(opener(profile))
    try:
        main.main(words, standalone_mode=False, prog_name="ipfs-cluster-node")
    except CapturedCall as captured:
        call = captured
    except click.UsageError as error:
        raise ClusterError(
            Reason.INVALID_ARGUMENT, f"--do takes a command line: {error.format_message()}"
        ) from error
    else:
        raise ClusterError(
            Reason.INVALID_ARGUMENT, "that command makes no call to the cluster; give one that does"
        )
    finally:
        capturing.reset(mark)
    # `node list` alone makes no other call after it. To say "allowed" of any other command that
    # begins with it, one written later included, would be an answer about the wrong call.
    if call.method.endswith("/ListNodes") and words[:2] != ["node", "list"]:
        raise ClusterError(
            Reason.INVALID_ARGUMENT,
            "that command lists the nodes first, and what it calls then depends on the answer; "
            "only the first call of a command can be explained",
        )
    tokens: list[bytes] = []
    did = who
    if who and not is_member(who):
        container = text_of(who)
        tokens, did = tokens_in(container), audience_of(container)
    answer = run_client(
        profile,
        lambda client: client.explain_access(call.method, call.request, did=did, tokens=tokens),
    )
    if as_json:
        print_json(json_document(answer))
    else:
        _print_explanation(call.method, answer)
    if not answer.allowed:
        sys.exit(Exit.DENIED)


_as_option = click.option(
    "--as",
    "who",
    default="",
    shell_complete=completed_members,
    help="A did:key, the name of a client or node, a container or a file with one. [default: you]",
)
_do_option = click.option(
    "--do", "what", required=True, help="A command line, such as 'task submit noop'."
)


@auth.command("explain")
@_as_option
@_do_option
@client_command
def explain(profile: str | None, *, who: str, what: str, as_json: bool) -> None:
    """Say whether something is allowed, and which link of the chain allows or denies it.

    Nothing is done. Exit status 4 if it would be denied.
    """
    _explain(profile, who, what, as_json)


@token.command("explain")
@click.argument("who", metavar="TOKEN")
@_do_option
@client_command
def explain_token(profile: str | None, *, who: str, what: str, as_json: bool) -> None:
    """Say whether TOKEN allows its audience a command; the same as `auth explain --as TOKEN`."""
    _explain(profile, who, what, as_json)


def _print_explanation(method: str, answer: Any) -> None:
    from ipfs_cluster_node.cli.rights_text import command_words

    say(f"{'allowed' if answer.allowed else 'DENIED'}: {method.rpartition('/')[2]}")
    if not verbose():
        for ask in answer.requirements:
            may = "it may" if ask.allowed else "it may not"
            said = " ".join(f"{name}={value}" for name, value in _known(ask.args_json))
            words = f"{command_words(Command(ask.command))} ({ask.command})"
            say(f"  {may} {words}{f', with {said}' if said else ''}")
        if answer.requirements:
            say("see -v for the delegations and their policies", err=True)
        return
    for ask in answer.requirements:
        word = "yes" if ask.allowed else f"no, {ask.ucan_error}: {ask.detail}"
        say(f"  {ask.command} {ask.args_json}: {word}")
        for number, link in enumerate(ask.chain):
            delegation = link.delegation
            mark = {True: "valid", False: "NOT VALID", None: "not checked"}[link.holds]
            say(
                f"    {number} {delegation.issuer} -> {delegation.audience} "
                f"{delegation.command} {delegation.policy_json}: {mark} ({delegation.cid})"
            )


def _known(args_json: str) -> Iterator[tuple[str, object]]:
    """The arguments of a call that say something."""
    args = json.loads(args_json) if args_json else {}
    return ((name, value) for name, value in args.items() if value not in ("*", False))


def _print_join_tokens(tokens: Any, as_json: bool, *, wide: bool) -> None:  # noqa: FBT001
    shown = shown_ids(JOIN_TOKEN, [each.token_id for each in tokens], wide=wide)
    print_views(
        tokens,
        as_json,
        "Join tokens",
        ("id", "for", "used", "until", "", "made by"),
        lambda each: (
            shown(each.token_id),
            grant_text(each.grant, each.namespace) or each.role,
            f"{each.use_count} of {each.uses_max}",
            exact_time_text(each.expires_at_ms),
            "approval" if each.needs_approval else "",
            each.creator_did,
        ),
    )


def _print_delegations(delegations: Any, as_json: bool, *, wide: bool) -> None:  # noqa: FBT001
    shown = shown_ids(DELEGATION, [each.cid for each in delegations], wide=wide)
    print_views(
        delegations,
        as_json,
        "Delegations",
        ("cid", "from", "to", "command", "policy", "until", ""),
        lambda each: (
            shown(each.cid),
            each.issuer,
            each.audience,
            each.command,
            each.policy_json,
            exact_time_text(each.expires_at_ms),
            "revoked" if each.revoker_dids else "",
        ),
    )
