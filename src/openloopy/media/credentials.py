"""Content credentials: a signed statement inside an mp4 that a model made it, and whether a file still has one.

Source: C2PA specification 2.2 (spec.c2pa.org), written and read by c2pa-python, which is an optional dependency:
nothing here is imported before it is used. The statement is `c2pa.created` with the source type "trained algorithmic
media", as the specification says for media that a generative model makes (18.14.2). IPTC's "composite with trained
algorithmic media" is for existing media that a model edits; here is a new video, and no part of its movement was
filmed.

Nothing goes over the network, on writing or on reading: no time stamp, no certificate status, no remote manifests.
The price is that a signature counts for as long as its certificate is valid, hence the long life of the self-made one.
All files signed with one key can be told to come from the same key, though not from whom.
"""

from __future__ import annotations

import importlib.util
import json
import os
import struct
import sys
import tempfile
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta, timezone
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

from openloopy.media.files import MediaError, atomic_write, only_run_in, remove_abandoned, require_file

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

TRAINED_ALGORITHMIC_MEDIA = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
CERTIFICATE_VARIABLE, KEY_VARIABLE = "OPENLOOPY_SIGNING_CERT", "OPENLOOPY_SIGNING_KEY"
CONFIG_VARIABLE = "OPENLOOPY_CONFIG"
SELF_MADE_NAME = "OpenLoopy (self-made key)"
"""Who signed, where users bring no certificate of their own."""
VALID_DAYS, MIN_LEFT_DAYS = 3653, 1827
"""A self-made certificate lives ten years and signs for five, so that what it signs last counts five more."""
UNFINISHED = ".new-"
"""How folders begin in which a pair is being made."""

CLAIM_SIGNING = "1.3.6.1.4.1.62558.2.1"
EMAIL_PROTECTION = "1.3.6.1.5.5.7.3.4"
"""Purposes of a certificate: the specification's own, and the one that readers of older versions look for."""
SIGNING_PURPOSES = (CLAIM_SIGNING, EMAIL_PROTECTION, "1.3.6.1.5.5.7.3.36", "1.3.6.1.4.1.311.76.59.1.9")
"""The library's reader knows the second alone; without the others it calls much that is sound invalid."""
MANIFEST_BOX = bytes.fromhex("d8fec3d61b0e483c92975828877ec481")
MAX_BOXES = 1000
"""Boxes of an mp4 that are looked at; the manifest's comes right after the first."""
MAX_TEXT = 200
"""Characters of a text out of a file that are kept."""
SPOOL_ABOVE_MIB = 16
"""The library holds a copy of smaller files in memory; it keeps larger ones in a temporary file."""

UNTRUSTED = "signingCredential.untrusted"
EXPIRED = frozenset({"signingCredential.expired", "claimSignature.outsideValidity"})
DAMAGE = (".mismatch", ".missing", ".malformed")
"""Endings of the library's codes for content, statement or signature that are not what was signed."""
ANEW = "a self-made pair is made anew once its folder is deleted"

Validation = Literal[
    "valid, signer trusted",
    "valid, signer not verified",
    "certificate expired",
    "tampered",
    "invalid",
    "unreadable",
]
"""What a check says. No trust list comes with the library, so an honest file is usually the second: nobody changed it
since it was signed, but who signed is that one's own word. Invalid: signed in a way that the specification does not
allow. Unreadable: damaged where nothing can be read any more, or written by a newer program."""


class CredentialsError(MediaError):
    """Credentials that cannot be written as asked."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What a manifest says about a video. It travels with the file: no people, no file names, no paths."""

    generator: str
    """The program's name."""
    generator_version: str
    model: str
    """The model's name, not its folder."""
    created: datetime
    """With its time zone; written in UTC, to the second."""
    title: str = "Talking portrait"

    def __post_init__(self) -> None:
        for text in (self.generator, self.generator_version, self.model, self.title):
            if not text or "/" in text or "\\" in text:
                raise ValueError(
                    f"expected a name, got {text!r}; paths and empty names do not go into a claim"
                )
        if self.created.tzinfo is None:
            raise ValueError(
                f"expected a time with its zone, got {self.created}; use datetime.now(timezone.utc)"
            )


@dataclass(frozen=True)
class SignerFiles:
    """Where a signer's certificates and key are, both in PEM form; they may be one file."""

    certificate_chain: Path
    """The key's certificate first, then that of its issuer, and so on; the root may be left out."""
    private_key: Path
    """EC (P-256, P-384, P-521), Ed25519 or RSA, without a passphrase."""


@dataclass(frozen=True, kw_only=True)
class Action:
    """One step in the making of a file, as its signer tells it."""

    name: str | None
    """Such as "c2pa.created"."""
    when: str | None
    """ISO 8601; the signer's word."""
    digital_source_type: str | None
    description: str | None


@dataclass(frozen=True, kw_only=True)
class Credentials:
    """What a file's manifest says, and whether that can be believed. All texts are the signer's own."""

    validation: Validation
    problems: tuple[str, ...] = ()
    """The library's codes for what is wrong, or its message where nothing could be read."""
    generator: str | None = None
    """Program and version."""
    title: str | None = None
    signer: str | None = None
    """Name and organisation in the certificate."""
    actions: tuple[Action, ...] = ()

    @property
    def digital_source_type(self) -> str | None:
        """IPTC's term for how the content came about, of the first action that has one."""
        return next((a.digital_source_type for a in self.actions if a.digital_source_type), None)

    @property
    def when(self) -> str | None:
        """Time of the first action that has one, ISO 8601."""
        return next((a.when for a in self.actions if a.when), None)


def is_available() -> bool:
    """Whether the libraries for credentials are installed (`pip install 'openloopy[credentials]'`)."""
    return all(importlib.util.find_spec(name) is not None for name in ("c2pa", "cryptography"))


def sign(source: Path | str, out: Path | str, claim: Claim, signer: SignerFiles | None = None) -> None:
    """Copy the mp4 `source` to `out` with a signed manifest; pictures, sound and tags stay as they are.

    Both may be the same file. `out` is whole or untouched. A manifest that `source` already has is replaced.

    Args:
        signer: None: `signer_files()`.

    Raises:
        CredentialsError: the libraries are not installed, the certificate or key does not serve, or `source` is not
            an mp4.
        MediaError: `source` or the folder of `out` is not there.
    """
    c2pa, source = _library(), require_file(source, "an mp4")
    files = signer or signer_files()
    chain, key, algorithm = _load(files)
    try:
        with atomic_write(out) as temporary, c2pa.Context.from_dict(_settings()) as context:
            native = c2pa.Signer.from_info(c2pa.C2paSignerInfo(algorithm, chain, key, None))
            builder = c2pa.Builder(_manifest(claim), context=context)
            with native, builder, open(source, "rb") as plain, open(temporary, "w+b") as signed:
                builder.sign(native, "video/mp4", plain, signed)
    except c2pa.C2paError as error:
        raise CredentialsError(
            f"{source} could not be signed with {files.certificate_chain} ({error}); expected an mp4, room on the "
            f"disk, and a certificate for digital signatures from an authority, with one of the extended key usages "
            f"{', '.join(SIGNING_PURPOSES)}"
        ) from error


def signer_files() -> SignerFiles:
    """The user's own pair, where $OPENLOOPY_SIGNING_CERT and $OPENLOOPY_SIGNING_KEY name one, else a self-made one.

    The self-made pair is made on first use, in `config_folder()`; the key is the user's alone to read. Processes that
    make one at the same time end with the same.

    Raises:
        CredentialsError: only one of the variables is set, or the folder cannot be written.
        MediaError: a file that they name is not there.
    """
    certificate, key = os.environ.get(CERTIFICATE_VARIABLE), os.environ.get(KEY_VARIABLE)
    if certificate and key:
        return SignerFiles(
            require_file(certificate, f"a certificate (${CERTIFICATE_VARIABLE})"),
            require_file(key, f"a private key (${KEY_VARIABLE})"),
        )
    if certificate or key:
        there, missing = sorted(
            (CERTIFICATE_VARIABLE, KEY_VARIABLE), key=lambda name: not os.environ.get(name)
        )
        raise CredentialsError(
            f"${there} is set and ${missing} is not; set both, or neither for a self-made key"
        )
    pair = _self_made_pair(config_folder() / "signing", datetime.now(timezone.utc).date())
    return SignerFiles(pair / "certificate.pem", pair / "key.pem")


def config_folder() -> Path:
    """The user's folder for settings: $OPENLOOPY_CONFIG, or where the platform keeps such things."""
    if os.environ.get(CONFIG_VARIABLE):
        return Path(os.environ[CONFIG_VARIABLE])
    if sys.platform == "win32":
        parent = Path(os.environ.get("APPDATA") or Path.home() / "AppData" / "Roaming")
    elif sys.platform == "darwin":
        parent = Path.home() / "Library" / "Application Support"
    else:
        parent = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return parent / "openloopy"


def read_credentials(path: Path | str) -> Credentials | None:
    """What an mp4's manifest says and whether it holds; None: no manifest in it, or not an mp4.

    Nothing is fetched: a manifest that is kept on a server, with a mere link in the file, counts as none.

    Raises:
        MediaError: no such file.
        CredentialsError: there is a manifest, but the library to read it is not installed.
    """
    path = require_file(path, "an mp4")
    if not _has_manifest(path):
        return None
    c2pa = _library()
    try:
        with c2pa.Context.from_dict(_settings()) as context, open(path, "rb") as stream:
            with c2pa.Reader("video/mp4", stream, context=context) as reader:
                store = json.loads(reader.json())
    except c2pa.C2paError as error:
        return Credentials(validation="unreadable", problems=(_text(str(error)) or "",))
    return _credentials(store)


def _library() -> ModuleType:
    try:
        import c2pa
    except ImportError as error:
        raise CredentialsError(
            f"content credentials need c2pa-python ({error}); pip install 'openloopy[credentials]'"
        ) from error
    return c2pa


def _settings() -> dict[str, Any]:
    """The library's settings. No network, for identity assertions neither: these do not heed the list of hosts."""
    return {
        "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False},
        "core": {
            "allowed_network_hosts": [],
            "decode_identity_assertions": False,
            "backing_store_memory_threshold_in_mb": SPOOL_ABOVE_MIB,
        },
        "builder": {"thumbnail": {"enabled": False}},
        "trust": {"trust_config": "\n".join(SIGNING_PURPOSES)},
    }


def _manifest(claim: Claim) -> dict[str, Any]:
    program = {"name": claim.generator, "version": claim.generator_version}
    created = {
        "action": "c2pa.created",
        "when": claim.created.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "softwareAgent": program,
        "digitalSourceType": TRAINED_ALGORITHMIC_MEDIA,
        "description": f"A portrait set in motion by the model {claim.model} to fit a given sound; "
        f"the movement is generated, not filmed.",
    }
    actions = {"actions": [created], "allActionsIncluded": True}
    return {
        "title": claim.title,
        "format": "video/mp4",
        "claim_generator_info": [program],
        "assertions": [{"label": "c2pa.actions.v2", "created": True, "data": actions}],
    }


def _load(files: SignerFiles) -> tuple[bytes, bytes, str]:
    """Certificates and key as plain PEM, and the algorithm's name in C2PA; checked to belong together."""
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    key = _load_key(files.private_key)
    algorithm = _algorithm(key, files.private_key)
    certificates = _load_certificates(files.certificate_chain)
    if certificates[0].public_key() != key.public_key():
        raise CredentialsError(
            f"the first certificate in {files.certificate_chain} does not belong to the key in "
            f"{files.private_key}; give the key's own certificate, followed by that of its issuer"
        )
    _check_dates(certificates[0], files.certificate_chain)
    chain = b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)
    plain_key = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return chain, plain_key, algorithm


def _check_dates(certificate: x509.Certificate, path: Path) -> None:
    now = datetime.now(timezone.utc)
    first, last = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if not first <= now <= last:
        raise CredentialsError(
            f"the certificate in {path} is valid from {first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M} UTC, "
            f"and now it is {now:%Y-%m-%d %H:%M}; renew it (or set the clock)"
        )


def _load_certificates(path: Path) -> list[x509.Certificate]:
    from cryptography import x509

    try:
        return x509.load_pem_x509_certificates(path.read_bytes())
    except (OSError, ValueError) as error:
        raise CredentialsError(
            f"{path} cannot be read as certificates ({error}); expected PEM text (-----BEGIN CERTIFICATE-----); {ANEW}"
        ) from error


def _load_key(path: Path) -> PrivateKeyTypes:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        return load_pem_private_key(path.read_bytes(), password=None)
    except TypeError as error:
        raise CredentialsError(
            f"the key in {path} is locked with a passphrase; expected one without (openssl pkey -in {path} -out OPEN)"
        ) from error
    except (OSError, ValueError, UnsupportedAlgorithm) as error:
        raise CredentialsError(
            f"{path} cannot be read as a private key ({error}); expected PEM text (-----BEGIN PRIVATE KEY-----); {ANEW}"
        ) from error


def _algorithm(key: PrivateKeyTypes, path: Path) -> str:
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    curves = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}
    if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name in curves:
        return curves[key.curve.name]
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return "ed25519"
    if isinstance(key, rsa.RSAPrivateKey):
        return "ps256"
    kind = f"{type(key).__name__} {getattr(getattr(key, 'curve', None), 'name', '')}".strip()
    raise CredentialsError(
        f"the key in {path} is of a kind that content credentials do not know ({kind}); "
        f"expected EC (P-256, P-384 or P-521), Ed25519 or RSA"
    )


def _self_made_pair(folder: Path, today: date) -> Path:
    """The folder of a pair with enough life left: `folder/until-DATE`, made if there is none."""
    remove_abandoned(folder.glob(f"{UNFINISHED}*"))
    # ISO dates sort as text; nothing is parsed, and a pair that is running out stays where it is.
    soonest = f"until-{today + timedelta(days=MIN_LEFT_DAYS)}"
    lasting = [pair for pair in folder.glob("until-*") if pair.name >= soonest]
    return max(lasting) if lasting else _make_pair(folder, today)


def _make_pair(folder: Path, today: date) -> Path:
    """Key and certificate in a folder that appears as a whole; the first of several processes wins."""
    _library()
    until = today + timedelta(days=VALID_DAYS)
    pair = folder / f"until-{until}"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=UNFINISHED) as temporary, only_run_in(temporary):
            made = Path(temporary) / pair.name
            made.mkdir(mode=0o700)
            (made / "key.pem").touch(mode=0o600)
            key, certificate = _key_and_certificate(today - timedelta(days=1), until)
            (made / "key.pem").write_bytes(key)
            (made / "certificate.pem").write_bytes(certificate)
            _rename_unless_there(made, pair)
    except OSError as error:
        raise CredentialsError(
            f"cannot make a signing key in {folder} ({error}); set ${CONFIG_VARIABLE} to a folder that can be "
            f"written, or ${CERTIFICATE_VARIABLE} and ${KEY_VARIABLE} to a pair of your own"
        ) from error
    return pair


def _rename_unless_there(made: Path, pair: Path) -> None:
    try:
        os.rename(made, pair)  # Fails on every platform where a folder with files has the name already.
    except OSError:
        if not pair.is_dir():
            raise


def _key_and_certificate(first: date, until: date) -> tuple[bytes, bytes]:
    """A new P-256 key and its certificate, in PEM form, valid from one midnight (UTC) to the other.

    Readers refuse a key that vouches for itself as authorities do, and the specification wants an authority's own
    certificate left out of the file (14.5). So the issuer here is a key that lives for this one signature.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    key, issuer = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    purposes = [x509.ObjectIdentifier(oid) for oid in (EMAIL_PROTECTION, CLAIM_SIGNING)]
    usage = dict.fromkeys(
        "content_commitment key_encipherment data_encipherment key_agreement key_cert_sign crl_sign "
        "encipher_only decipher_only".split(),
        False,
    )
    midnight = time(tzinfo=timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(_name(SELF_MADE_NAME))
        .issuer_name(_name("OpenLoopy (self-made, used once)"))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.combine(first, midnight))
        .not_valid_after(datetime.combine(until, midnight))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(digital_signature=True, **usage), critical=True)
        .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.public_key()), critical=False
        )
        .sign(issuer, hashes.SHA256())
    )
    plain_key = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return plain_key, certificate.public_bytes(Encoding.PEM)


def _name(text: str) -> x509.Name:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    oids = (NameOID.COMMON_NAME, NameOID.ORGANIZATION_NAME)
    return x509.Name([x509.NameAttribute(oid, text) for oid in oids])


def _has_manifest(path: Path) -> bool:
    """Whether one of an mp4's outermost boxes is C2PA's; so no other kind of file, nor a link, meets the library."""
    position = 0
    with open(path, "rb") as stream:
        for _ in range(MAX_BOXES):
            stream.seek(position)
            head = stream.read(32)
            if len(head) < 24:
                return False
            size, kind = struct.unpack(">I4s", head[:8])
            content = 8
            if size == 1:
                size, content = int.from_bytes(head[8:16], "big"), 16
            if kind == b"uuid" and head[content : content + 16] == MANIFEST_BOX:
                return True
            if size < content:  # 0: the last box; others: not an mp4
                return False
            position += size
    return False


def _credentials(store: dict[str, Any]) -> Credentials:
    """From the library's JSON. What is missing there is None; what is there comes from whoever made the file."""
    manifest = store.get("manifests", {}).get(store.get("active_manifest"), {})
    signature = manifest.get("signature_info", {})
    program = (manifest.get("claim_generator_info") or [{}])[0]
    validation, problems = _validation(store)
    return Credentials(
        validation=validation,
        problems=problems,
        generator=_joined(" ", program.get("name"), program.get("version")),
        title=_text(manifest.get("title")),
        signer=_joined(", ", signature.get("common_name"), signature.get("issuer")),
        actions=tuple(
            _action(action)
            for assertion in manifest.get("assertions", ())
            if assertion.get("label", "").startswith("c2pa.actions")
            for action in assertion.get("data", {}).get("actions", ())
        ),
    )


def _validation(store: dict[str, Any]) -> tuple[Validation, tuple[str, ...]]:
    codes = [entry.get("code", "") for entry in store.get("validation_status", ())]
    problems = tuple(code for code in codes if code != UNTRUSTED)
    state = store.get("validation_state")
    if state == "Trusted":
        return "valid, signer trusted", problems
    if state == "Valid":
        return "valid, signer not verified", problems
    if any(code.endswith(DAMAGE) for code in problems):
        return "tampered", problems
    if problems and set(problems) <= EXPIRED:
        return "certificate expired", problems
    return "invalid", problems


def _action(action: dict[str, Any]) -> Action:
    return Action(
        name=_text(action.get("action")),
        when=_text(action.get("when")),
        digital_source_type=_text(action.get("digitalSourceType")),
        description=_text(action.get("description")),
    )


def _joined(between: str, *texts: object) -> str | None:
    """The different texts among those that are there."""
    return between.join(dict.fromkeys(filter(None, map(_text, texts)))) or None


def _text(value: object) -> str | None:
    """A text out of a file that anybody may have written: without control characters, and not too long."""
    if not isinstance(value, str):
        return None
    return "".join(character for character in value if character.isprintable())[:MAX_TEXT] or None
