"""`cert`: certificates, and the root they come from."""

from typing import Any, Final

import click

from ipfs_cluster_node.cli.output import (
    json_option,
    message_document,
    print_done,
    print_json,
    print_table,
    reporting,
    run_client,
    say,
)
from ipfs_cluster_node.core.errors import ClusterError, Reason

SERIAL_CHARS_MAX: Final = 40


@click.group()
def cert() -> None:
    """Certificates of nodes and clients."""


@cert.command("list")
@click.option("--did", default="", help="Only those of this member.")
@json_option
@click.pass_obj
@reporting
def list_certificates(profile: str | None, *, did: str, as_json: bool) -> None:
    """List the certificates that were handed out."""
    found = run_client(profile, lambda client: client.list_certificates(did=did))
    if as_json:
        print_json([message_document(each) for each in found])
        return
    rows = [
        (
            each.serial,
            each.name,
            each.did,
            f"{each.expire_time.ToDatetime():%F %T}",
            "revoked" if each.revoked else "",
        )
        for each in sorted(found, key=lambda c: (c.name, c.issue_time.ToDatetime()))
    ]
    print_table("certificates", ("serial", "owner", "did", "ends (UTC)", ""), rows)


@cert.command("show")
@click.argument("serial")
@json_option
@click.pass_obj
@reporting
def show_certificate(profile: str | None, *, serial: str, as_json: bool) -> None:
    """Tell what is known of the certificate SERIAL."""
    found = run_client(profile, lambda client: client.list_certificates(serial=serial))
    if not found:
        raise ClusterError(
            Reason.CERTIFICATE_NOT_FOUND, f"no certificate {serial[:SERIAL_CHARS_MAX]}; list them"
        )
    [certificate] = found
    if as_json:
        print_json(message_document(certificate))
        return
    say(f"serial:  {certificate.serial}")
    say(f"owner:   {certificate.name} ({certificate.did})")
    say(f"issued:  {certificate.issue_time.ToDatetime():%F %T} UTC")
    say(f"ends:    {certificate.expire_time.ToDatetime():%F %T} UTC")
    say(f"key:     SHA-256 {certificate.spki_hash.hex()}")
    say(f"revoked: {'yes' if certificate.revoked else 'no'}")


@cert.command("revoke")
@click.argument("what")
@json_option
@click.pass_obj
@reporting
def revoke_certificate(profile: str | None, *, what: str, as_json: bool) -> None:
    """Let WHAT count no more: the serial number of a certificate, or the did:key of a member.

    There is no way back: the member has to be removed, and to join with a new identity. A master is
    not revoked but removed, with `node remove`.
    """
    by: dict[str, Any] = {"did": what} if what.startswith("did:") else {"serial": what}
    run_client(profile, lambda client: client.revoke_certificate(**by))
    print_done({"revoked": what}, f"revoked {what}", as_json=as_json)


@cert.command("rotate")
@json_option
@click.pass_obj
@reporting
def rotate_certificates(profile: str | None, *, as_json: bool) -> None:
    """Have every node renew its certificate now, under the same root."""
    epoch = run_client(profile, lambda client: client.rotate_certificates(new_root=False))
    print_done({"epoch": epoch}, f"nodes renew; epoch {epoch}", as_json=as_json)


@cert.command("rotate-ca")
@click.option("--status", "only_status", is_flag=True, help="Tell how far the rotation is.")
@click.option(
    "--proceed",
    is_flag=True,
    help="Wait no longer for those that have not renewed; they may have to join anew.",
)
@json_option
@click.pass_obj
@reporting
def rotate_root(profile: str | None, *, only_status: bool, proceed: bool, as_json: bool) -> None:
    """Put a new root in the place of the cluster's own, without an interruption.

    First every member learns to trust the new root, then every member gets a certificate of it,
    then the old one is trusted no more. Each step waits for every node that is alive, and for every
    client whose certificate has not ended: `cert renew` renews it, and so does its use, in time.
    """

    async def run(client: Any) -> Any:
        if not only_status:
            await client.rotate_certificates(new_root=True, proceed=proceed)
        return await client.get_rotation()

    status = run_client(profile, run)
    if as_json:
        print_json(message_document(status))
        return
    say(f"phase: {status.phase} (epoch {status.epoch})")
    say(f"confirmed: {status.confirmed_count} members")
    for did in status.waiting_dids:
        say(f"waiting for: {did}")
    for pin in status.root_pins:
        say(f"root: {pin}")


@cert.command("renew")
@json_option
@click.pass_obj
@reporting
def renew_certificate(profile: str | None, *, as_json: bool) -> None:
    """Renew your own certificate now; it is done by itself when half of its life is over."""
    run_client(profile, lambda client: client.certificate.renew())
    print_done({"renewed": True}, "renewed", as_json=as_json)
