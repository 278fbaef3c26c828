"""`recover`: recovery from lost keys, masters or a lost cluster."""

import asyncio
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, TextIO

import click

from ipfs_cluster_node.cli.groups import Group
from ipfs_cluster_node.cli.join_hint import Invitation
from ipfs_cluster_node.cli.node_commands import (
    CLUSTER_KEYS,
    address_options,
    home_option,
    node_settings,
)
from ipfs_cluster_node.cli.output import (
    DURATION,
    Function,
    command_line,
    confirm,
    json_document,
    local_command,
    print_done,
    print_json,
    say,
)
from ipfs_cluster_node.config.home import Home
from ipfs_cluster_node.core.model import Role


def passphrase_option(*, required: bool) -> Callable[[Function], Function]:
    """Add the option that names the recovery passphrase."""
    return click.option(
        "--passphrase-file",
        required=required,
        type=click.File("r"),
        help="File with the recovery passphrase, for a backup that of its time; - is stdin.",
    )


OPERATORS_MACHINE: Final = "the operator's machine"


@click.group(cls=Group)
def recover() -> None:
    """Recover from lost keys, masters or a lost cluster.

    Choose by what is lost: a master's seal.key, `keys`; half of the masters or more, for good,
    `alone`; every operator's identity, `operator`; every master, `cluster`, which needs a backup;
    the recovery passphrase, also if it has leaked, `passphrase`. docs/recovery.md has the whole
    procedure.
    """


@recover.command("keys")
@passphrase_option(required=True)
@home_option
@local_command
def recover_keys(*, passphrase_file: TextIO, home: Home, as_json: bool) -> None:
    """Let this master open the cluster's keys again, with the recovery passphrase.

    For a master whose seal.key is lost, if no other master can seal the keys to it. Stop the node
    first; recovery completes once the node runs again and leads.
    """
    from ipfs_cluster_node.disaster.passphrase import prepare_recovery

    home.check()
    with home.lock():
        prepare_recovery(home, passphrase_file.read().strip())
    print_done(
        {"home": str(home.path)},
        "start the node; it opens the cluster's keys once it leads",
        as_json=as_json,
    )


@recover.command("alone")
@passphrase_option(required=False)
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@click.option(
    "--old-copy",
    is_flag=True,
    help="Accept a log that waits to be replaced, if those of all remaining masters do.",
)
@home_option
@local_command
def recover_alone(
    *, passphrase_file: TextIO | None, yes: bool, old_copy: bool, home: Home, as_json: bool
) -> None:
    """Make this master the only one: all other masters are removed, for good.

    For a cluster that has lost half of its masters, or more. Stop the node first. The other masters
    must never run again: several of them could form a second cluster. Refused if another master
    answers and has a leader. If several masters are left, take the one with the longest log; the
    others join with new identities, each in another --home.

    The passphrase is needed only if this master's own seal.key is lost as well.
    """
    from ipfs_cluster_node.disaster.alone import Survivor

    if not yes and as_json:
        raise click.UsageError("--json does not prompt, so it needs --yes")
    if not yes and passphrase_file is not None and passphrase_file.name == "<stdin>":
        raise click.UsageError("stdin can't hold both the passphrase and the answer; add --yes")
    home.check()
    with home.lock():
        survivor = Survivor(home, old_copy=old_copy)
        running = asyncio.run(survivor.check_others())
        stored, removed = survivor.stored, [(m.name, m.node_id) for m in survivor.others]
        for master in running:
            say(
                f"warning: {master.name} ({master.node_id}) runs, without a leader; stop it, or "
                "use it instead if its log is longer",
                err=True,
            )
        if not yes and not survivor.is_alone:
            say(
                f"the log of this master ends with entry {stored.index} of term "
                f"{stored.entry_term}; anything later is lost",
                err=True,
            )
            for name, node_id in removed:
                say(f"removed for good: {name} ({node_id})", err=True)
            confirm("Are these lost for good, and should this master continue alone?")
        passphrase = "" if passphrase_file is None else passphrase_file.read().strip()
        survivor.go_on_alone(passphrase)
    print_done(
        {
            "node_id": survivor.node_id,
            "index": str(stored.index),
            "term": str(stored.entry_term),
            "removed_node_ids": [node_id for _, node_id in removed],
        },
        [
            f"{survivor.node_id} is the only master; start it with: "
            + command_line("serve", "--home", home.path),
            _deletion_paused(),
        ],
        as_json=as_json,
    )


@recover.command("passphrase")
@click.option(
    "--passphrase-file",
    type=click.File("r"),
    help="A file with the new passphrase; - is stdin. [default: one is made and printed once]",
)
@click.option(
    "--wait", type=DURATION, default="10s", show_default=True, help="How soon it has to start."
)
@home_option
@local_command
def recover_passphrase(
    *, passphrase_file: TextIO | None, wait: timedelta, home: Home, as_json: bool
) -> None:
    """Replace the recovery passphrase; run this on the leader's machine.

    For one that is lost or may have leaked. The leader seals the cluster's keys to the new one;
    `cluster transfer-leadership` makes another master the leader. Exit status 3 or 7: nothing
    changed, and the old one still applies.

    The old one still opens earlier backups, and logs until they are compacted.
    """
    from ipfs_cluster_node.adapters.keys.sealing import make_passphrase
    from ipfs_cluster_node.disaster.passphrase import change_passphrase, check_leads

    if as_json and passphrase_file is None:
        raise click.UsageError(
            "--json needs --passphrase-file: you must know the new one beforehand"
        )
    home.check()
    asyncio.run(check_leads(home))
    if passphrase_file is None:
        # Printed before it takes effect, so that it is known even if this is interrupted.
        passphrase = make_passphrase()
        say(f"recovery passphrase: {passphrase}")
        sys.stdout.flush()
    else:
        passphrase = passphrase_file.read().strip()
    changed = asyncio.run(change_passphrase(home, passphrase, wait=wait))
    print_done(
        {"home": str(home.path), "changed": changed},
        "it applies from now on; make a new backup: older ones open with the old passphrase"
        if changed
        else "it is the cluster's passphrase already",
        as_json=as_json,
    )


@recover.command("operator")
@passphrase_option(required=True)
@click.option("--ttl", type=DURATION, default="1h", show_default=True, help="How long it is valid.")
@home_option
@local_command
def recover_operator(*, passphrase_file: TextIO, ttl: timedelta, home: Home, as_json: bool) -> None:
    """Make a join token for an operator while the cluster runs; run this on a master's machine.

    For a cluster whose operators' identities are lost. The passphrase opens the cluster's own key,
    which authorizes this master for five minutes to make the token.
    """
    from ipfs_cluster_node.disaster.passphrase import invite_operator

    home.check()
    passphrase = passphrase_file.read().strip()
    answer = asyncio.run(invite_operator(home, passphrase, ttl=ttl))
    made = _invitation(answer.token, answer.enrolment_endpoints)
    if as_json:
        print_json(json_document(answer) | made.document())
        return
    made.show(OPERATORS_MACHINE)


@recover.command("cluster")
@click.argument("backup", type=click.Path(dir_okay=False, path_type=Path))
@passphrase_option(required=True)
@home_option
@address_options
@click.option(
    "--force", is_flag=True, help="Even if masters of the backup are running: for a trial."
)
@local_command
def recover_cluster(
    *,
    backup: Path,
    passphrase_file: TextIO,
    home: Home,
    force: bool,
    as_json: bool,
    **where: Any,
) -> None:
    """Restore the cluster from BACKUP on a new master, once every master is lost.

    The home directory must be empty. For its members the cluster stays the same, with their
    identities, certificates and permissions; everything since the backup is lost, including
    removals and revocations. Also makes a join token for an operator.
    """
    from ipfs_cluster_node.disaster.restore import refuse_while_masters_run, restore_cluster
    from ipfs_cluster_node.node.health_calls import check_home_free

    asyncio.run(check_home_free(home))
    check: dict[str, Any] = {} if force else {"check_lost": refuse_while_masters_run}
    made = restore_cluster(
        home,
        node_settings(role="master", **where),
        backup=backup,
        passphrase=passphrase_file.read().strip(),
        **check,
    )
    if as_json:
        print_json(
            {key: getattr(made, key) for key in CLUSTER_KEYS}
            | {
                "home": str(home.path),
                "removed_node_ids": [master.node_id for master in made.removed],
                "operator_token": made.operator_token,
                "enrolment_endpoints": list(made.enrolment_endpoints),
            }
        )
        return
    say(f"master {made.node_id} of cluster {made.cluster_name} ({made.cluster_id})")
    for master in made.removed:
        say(f"removed for good: {master.name} ({master.node_id})")
    say(f"start it with: {command_line('serve', '--home', home.path)}")
    say(_deletion_paused())
    say(f"start other nodes with: ipfs-cluster-node serve --master {made.node_id}@HOST:PORT")
    say("for an operator, within an hour:")
    _invitation(made.operator_token, made.enrolment_endpoints).show(OPERATORS_MACHINE)


def _deletion_paused() -> str:
    return (
        "masters delete no block of files: add again what you need and the log does not name, then "
        "ipfs-cluster-node config set block_deletion_paused 0"
    )


def _invitation(token: str, enrolment_endpoints: Any) -> Invitation:
    return Invitation(token, enrolment_endpoints, role=Role.CLIENT)
