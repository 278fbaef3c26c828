"""`cert`: certificates and the root that signs them."""

import re
from typing import Any, Final

import click

from ipfs_cluster_node.cli.completing import completed_members, completed_serials
from ipfs_cluster_node.cli.groups import Group
from ipfs_cluster_node.cli.ids import shown_ids, wide_option
from ipfs_cluster_node.cli.output import (
    client_command,
    print_done,
    print_view,
    print_views,
    run_client,
    time_text,
)
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ids import did_from_node_id
from ipfs_cluster_node.core.names import CERTIFICATE

SERIAL_CHARS_MAX: Final = 40
SERIAL: Final = re.compile("[0-9a-f]{4,40}")
"""A serial number, or the beginning of one; any other text is a member."""


@click.group(cls=Group)
def cert() -> None:
    """Certificates of nodes and clients."""


@cert.command("list")
@click.option(
    "--did",
    default="",
    shell_complete=completed_members,
    help="Only those of this member: its did:key, name or node id.",
)
@wide_option
@client_command
def list_certificates(profile: str | None, *, did: str, wide: bool, as_json: bool) -> None:
    """List the issued certificates."""
    found = run_client(profile, lambda client: client.list_certificates(did=did))
    shown = shown_ids(CERTIFICATE, [each.serial for each in found], wide=wide)
    print_views(
        found if as_json else sorted(found, key=lambda c: (c.name, c.issued_at_ms)),
        as_json,
        "certificates",
        ("serial", "owner", "did", "ends (UTC)", ""),
        lambda each: (
            shown(each.serial),
            each.name,
            each.did,
            time_text(each.expires_at_ms),
            "revoked" if each.revoked else "",
        ),
    )


@cert.command("show")
@click.argument("serial", shell_complete=completed_serials)
@client_command
def show_certificate(profile: str | None, *, serial: str, as_json: bool) -> None:
    """Show the certificate with this serial number."""
    found = run_client(profile, lambda client: client.list_certificates(serial=serial))
    if not found:
        raise ClusterError(
            Reason.CERTIFICATE_NOT_FOUND, f"no certificate {serial[:SERIAL_CHARS_MAX]}; list them"
        )
    [certificate] = found
    said = (
        f"serial:  {certificate.serial}",
        f"owner:   {certificate.name} ({certificate.did})",
        f"issued:  {time_text(certificate.issued_at_ms)} UTC",
        f"ends:    {time_text(certificate.expires_at_ms)} UTC",
        f"key:     SHA-256 {certificate.spki_sha256}",
        f"revoked: {'yes' if certificate.revoked else 'no'}",
    )
    print_view(certificate, said, as_json)


@cert.command("revoke")
@click.argument("what", shell_complete=completed_serials)
@client_command
def revoke_certificate(profile: str | None, *, what: str, as_json: bool) -> None:
    """Revoke WHAT: a certificate by its serial number, or a member by its did:key or name.

    This can't be undone: the member has to be removed, and to join with a new identity. A master is
    removed with `node remove` instead.
    """

    async def revoke(client: Any) -> tuple[str, str]:
        if not SERIAL.fullmatch(what):
            member = await client.lookups.member(what)
            did = did_from_node_id(member.id)
            await client.revoke_certificate(did=did)
            return did, f"every certificate of {f'{member.name} ({did})' if member.name else did}"
        serial = await client.lookups.serial(what)
        await client.revoke_certificate(serial=serial)
        return serial, f"certificate {serial}"

    revoked, said = run_client(profile, revoke)
    print_done({"revoked": revoked}, f"revoked {said}", as_json=as_json)


@cert.command("rotate")
@client_command
def rotate_certificates(profile: str | None, *, as_json: bool) -> None:
    """Make every node renew its certificate now, under the same root."""
    epoch = run_client(profile, lambda client: client.rotate_certificates(new_root=False))
    print_done(
        {"epoch": str(epoch)}, f"nodes renew their certificates; epoch {epoch}", as_json=as_json
    )


@cert.command("rotate-ca")
@click.option("--status", "only_status", is_flag=True, help="Only show the rotation's progress.")
@click.option(
    "--proceed",
    is_flag=True,
    help="Stop waiting for members that have not renewed; they may have to join again.",
)
@client_command
def rotate_root(profile: str | None, *, only_status: bool, proceed: bool, as_json: bool) -> None:
    """Replace the cluster's root certificate without interruption.

    First every member learns to trust the new root, then gets a certificate signed by it; then the
    old one is no longer trusted. Each step waits for every node that is alive, and for every client
    whose certificate has not expired: `cert renew` renews it, and normal use does so in time.
    """

    async def run(client: Any) -> Any:
        if not only_status:
            await client.rotate_certificates(new_root=True, proceed=proceed)
        return await client.get_rotation()

    status = run_client(profile, run)
    unnamed = status.waiting_count - len(status.waiting_dids)
    said = (
        f"phase: {status.phase} (epoch {status.epoch})",
        f"confirmed: {status.confirmed_count} members",
        *(f"waiting for: {did}" for did in status.waiting_dids),
        *([f"waiting for: {unnamed} more"] if unnamed > 0 else []),
        *(f"root: {pin}" for pin in status.root_pins),
    )
    print_view(status, said, as_json)


@cert.command("renew")
@client_command
def renew_certificate(profile: str | None, *, as_json: bool) -> None:
    """Renew your certificate now; any command does so once half of its lifetime is over."""
    run_client(profile, lambda client: client.certificate.renew())
    print_done({"renewed": True}, "renewed", as_json=as_json)
