#!/usr/bin/python3
"""A second reader of Letterhold's archives, written from docs/format.md alone.

It shows that the page is enough: whoever has an archive, its recovery words
and that page gets every message back without the program. It writes nothing
into the archive and looks at no database, and it believes nothing that it can
check. In memory it keeps one frame, one message, an entry for each object, and
each message's folders.

    reader.py ARCHIVE (--words-file F | --key-file F | --passphrase-file F) list
    reader.py ARCHIVE (--words-file F | --key-file F | --passphrase-file F) extract DIR

Needs Debian's python3-cryptography and python3-zstandard, and python3-argon2
for a passphrase. The archive must not be written to meanwhile.
"""

import argparse
import base64
import hashlib
import hmac
import json
import signal
import struct
import sys
import unicodedata
from collections import defaultdict, namedtuple
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path

import zstandard
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

HERE = Path(__file__).resolve().parent
CHUNK = 65536
DICTIONARY_ID = 0x4C480001
HEAD = struct.Struct(">8s16sIII")  # magic, archive, pack, generation, epoch
MESSAGE, SKELETON, PART = 1, 2, 3  # types of ids
LEAF_KINDS = {6: 1, 10: 2}  # field of the frame: kind of its leaf

Checkpoint = namedtuple("Checkpoint", "size root commit pack keys_length data_length keys_generation")
Entry = namedtuple("Entry", "pack offset sealed length stored key")


class Damage(Exception):
    """Something does not match; the text names the file first."""


@contextmanager
def reading(name):
    """Blames what goes wrong inside on this file, so that no check has to name it."""
    try:
        yield
    except InvalidTag:
        raise Damage(f"{name}: decryption failed") from None
    except (ValueError, LookupError, TypeError, OSError, struct.error, zstandard.ZstdError) as err:
        kind = "" if type(err) is ValueError else f"{type(err).__name__}: "
        raise Damage(f"{name}: {kind}{err}") from err


def check(holds, what):
    """Raises what reading() turns into Damage; assert would vanish under -O."""
    if not holds:
        raise ValueError(what)


def sha256(data):
    return hashlib.sha256(data).digest()


def mac(key, data):
    return hmac.digest(key, data, "sha256")


def split(key, *context):
    """Returns an encryption key and the commitment to it."""
    data = b"".join(struct.pack(">I", len(c)) + c for c in context)
    both = hmac.digest(key, data, "sha512")
    return both[:32], both[32:]


def open_box(key, context, box):
    salt, commitment, sealed = box[:24], box[24:56], box[56:]
    enc, want = split(key, b"letterhold box v1", salt, context)
    check(hmac.compare_digest(commitment, want), "commitment of a box does not match")
    return AESGCM(enc).decrypt(bytes(12), sealed, None)


def open_object(key, context, sealed):
    enc, want = split(key, b"letterhold object v1", context)
    check(hmac.compare_digest(sealed[:32], want), "commitment of an object does not match")
    cipher, content = AESGCM(enc), bytearray()
    starts = range(32, len(sealed), CHUNK + 16)
    check(len(starts) > 0, "object without a chunk")
    for number, start in enumerate(starts):
        nonce = bytes(7) + struct.pack(">IB", number, start == starts[-1])
        content += cipher.decrypt(nonce, sealed[start : start + CHUNK + 16], None)
    return bytes(content)


def fields(data):
    """Yields (number, value) in order, which matters in a skeleton."""
    at = 0

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            byte, at = data[at], at + 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(data):
        tag = varint()
        value = varint()
        if tag & 7 == 2:
            check(at + value <= len(data), "field longer than its record")
            value, at = data[at : at + value], at + value
        else:
            check(tag & 7 == 0, "wire type that the format does not use")
        yield tag >> 3, value


def record(data):
    """A record none of whose fields matters more than once; absent ones are asked for with get."""
    return dict(fields(data))


def entropy_of_words(path, wordlist):
    words = Path(wordlist).read_text().split()
    said = Path(path).read_text().lower().split()
    check(len(words) == 2048 and len(said) == 24, "there are not 24 words, or not 2048 in the list")
    bits = 0
    for word in said:
        bits = bits << 11 | words.index(word)
    entropy = (bits >> 8).to_bytes(32, "big")
    check(bits & 0xFF == sha256(entropy)[0], "the check sum of the words is wrong")
    return entropy


def key_of_file(path):
    *head, key = Path(path).read_text().split()
    check(head == ["letterhold", "key", "1"], "not a key file")
    return base64.b64decode(key, validate=True)


def secret(args):
    """Returns the kind of slot that the command line has a secret for, and the secret."""
    if args.words_file:
        with reading(args.words_file):
            return "recovery", entropy_of_words(args.words_file, args.wordlist)
    if args.key_file:
        with reading(args.key_file):
            return "keyfile", key_of_file(args.key_file)
    with reading(args.passphrase_file):
        text = Path(args.passphrase_file).read_text().rstrip("\r\n")
        return "passphrase", unicodedata.normalize("NFC", text).encode()


def wrapping_key(kdf, secret):
    salt = base64.b64decode(kdf["salt"])
    if kdf["name"] == "hmac-sha256":
        return mac(sha256(secret), b"letterhold slot " + salt)
    check(kdf["name"] == "argon2id", f"kdf {kdf['name']} is unknown")
    from argon2.low_level import Type, hash_secret_raw  # only who has a passphrase needs it

    return hash_secret_raw(secret, salt, kdf["time"], kdf["memory"], kdf["threads"], 32, Type.ID, 0x13)


def root_key(keys, kind, secret):
    """Tries every slot of the kind: nothing but the box says whose key it is."""
    for slot in keys["slots"]:
        context = f"slot {keys['archive']} {slot['id']} {slot['kind']}".encode()
        if slot["kind"] == kind:
            try:
                return open_box(wrapping_key(slot["kdf"], secret), context, base64.b64decode(slot["wrap"]))
            except (ValueError, InvalidTag):
                continue
    raise ValueError(f"no {kind} slot opens: the secret is another one's, or the file is damaged")


def open_keys(folder, kind, secret):
    """Returns keys.json and the ring as {purpose: {epoch: key}}."""
    with reading("archive.json"):
        about = (folder / "archive.json").read_bytes()
        check(json.loads(about)["format"] == 1, "unknown format")
    with reading("keys.json"):
        raw = (folder / "keys.json").read_bytes()
        keys = json.loads(raw)
        check(keys["format"] == 1, "unknown format")
        root = root_key(keys, kind, secret)
        unsigned = raw.replace(f'"mac": "{keys["mac"]}"'.encode(), b'"mac": ""')
        want = mac(mac(root, b"keys.json"), sha256(about) + unsigned)
        check(hmac.compare_digest(want.hex(), keys["mac"]), "the MAC over this file and archive.json does not match")
        check(json.loads(about)["id"] == keys["archive"], "archive.json has another id")
        ring = defaultdict(dict)
        for key in json.loads(open_box(root, f"ring {keys['archive']}".encode(), base64.b64decode(keys["ring"]))):
            ring[key["purpose"]][key["epoch"]] = base64.b64decode(key["key"])
    return keys, ring


def read_checkpoint(path, archive, seed):
    """Signs the text again rather than verify it: with the seed at hand that compares every byte."""
    note = path.read_bytes()
    text, _, _ = note.partition(b"\n\n")
    text += b"\n"
    origin = f"letterhold/{archive}".encode()
    key = Ed25519PrivateKey.from_private_bytes(seed)
    public = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    signature = sha256(origin + b"\n\x01" + public)[:4] + key.sign(text)
    line = b"\xe2\x80\x94 " + origin + b" " + base64.b64encode(signature) + b"\n"
    check(note == text + b"\n" + line, "the signature does not match")
    name, size, root, store, _, keys = text.decode().splitlines()
    check(name.encode() == origin, "it is another archive's")
    return Checkpoint(int(size), base64.b64decode(root), *map(int, store.split()[1:]), int(keys.split()[1]))


def tile_name(level, number, width):
    groups = [f"{number % 1000:03d}"]
    while number := number // 1000:
        groups.insert(0, f"x{number % 1000:03d}")
    partial = f".p/{width}" if width < 256 else ""
    return f"ledger/tile/{level}/{'/'.join(groups)}{partial}"


class Ledger:
    """Makes tiles and root again from the leaves, holding one tile a level."""

    def __init__(self, folder):
        self.folder = folder
        self.size = 0
        self.stack = []  # (height, hash) of complete subtrees, the tallest first
        self.tiles = defaultdict(list)  # level: pieces of the tile that is being filled
        self.full = defaultdict(int)  # level: tiles filled so far

    def add(self, leaf):
        self.fill("entries", struct.pack(">H", len(leaf)) + leaf)
        self.node(0, sha256(b"\0" + leaf))
        self.size += 1

    def node(self, height, digest):
        if height % 8 == 0:
            self.fill(height // 8, digest)
        if self.stack and self.stack[-1][0] == height:
            self.node(height + 1, sha256(b"\1" + self.stack.pop()[1] + digest))
        else:
            self.stack.append((height, digest))

    def fill(self, level, piece):
        self.tiles[level].append(piece)
        if len(self.tiles[level]) == 256:
            self.compare(level)
            self.full[level] += 1
            self.tiles[level] = []

    def compare(self, level):
        name = tile_name(level, self.full[level], len(self.tiles[level]))
        with reading(name):
            same = (self.folder / name).read_bytes() == b"".join(self.tiles[level])
            check(same, "the tile is not that of the frames' leaves")

    def root(self):
        """Compares the tiles that are not full, and joins the subtrees from the right."""
        for level, pieces in self.tiles.items():
            if pieces:
                self.compare(level)
        digest = self.stack[-1][1] if self.stack else sha256(b"")
        for _, left in reversed(self.stack[:-1]):
            digest = sha256(b"\1" + left + digest)
        return digest


class Frame:
    """The fields of one commit, told apart into single ones and repeated ones."""

    def __init__(self, data):
        self.repeated = defaultdict(list)
        for number, value in fields(data):
            self.repeated[number].append(value)
        self.commit = self.repeated[1][0]
        self.first_leaf = (self.repeated[3] or [0])[0]

    def records(self, number):
        return map(record, self.repeated[number])

    def check_leaf(self, number, item, salt, total):
        """The leaf of a message (field 6) or an act (field 10) must say version, kind and commitment."""
        leaf, kind = self.repeated[5][item.get(1, 0)], bytes([LEAF_KINDS[number]])
        check(len(leaf) == 42 and leaf[:2] == b"\1" + kind, "version or kind of a leaf is wrong")
        check(leaf[10:] == sha256(kind + salt + total), "the commitment of a leaf does not match")


class Archive:
    def __init__(self, folder, kind, secret, dictionary):
        self.folder = Path(folder)
        keys, self.ring = open_keys(self.folder, kind, secret)
        self.id = keys["archive"]
        with reading(dictionary):
            data = Path(dictionary).read_bytes()
            self.dictionary = zstandard.ZstdCompressionDict(data, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
        with reading("ledger/checkpoint"):
            path = self.folder / "ledger/checkpoint"
            self.checkpoint = read_checkpoint(path, self.id, self.newest("ledger"))
            # An act goes before the change, so the file may be one generation behind.
            behind = self.checkpoint.keys_generation - keys["generation"]
            check(behind in (0, 1), "keys.json is not of the generation that it names")
        self.objects = {}  # object id: Entry
        self.folders = {}  # folder id: name
        self.found = defaultdict(set)  # row: folder ids
        self.gone = []  # leaves that no record claims any more
        self.survey()

    def newest(self, purpose):
        return self.ring[purpose][max(self.ring[purpose])]

    def content_id(self, kind, total):
        return mac(self.newest("id"), bytes([kind]) + total)[:16]

    def frames(self):
        """Yields (file, pack file, frame) up to the checkpoint; what lies beyond was never acknowledged."""
        last = self.checkpoint.pack
        for pack in range(1, last + 1):
            stem = f"store/{pack // 256:02x}/{pack:08x}"
            name = f"{stem}.keys"
            with reading(name), open(self.folder / name, "rb") as file:
                head = file.read(HEAD.size)
                magic, archive, number, generation, epoch = HEAD.unpack(head)
                known = (magic, archive.hex(), number) == (b"LHKEYS1\n", self.id, pack)
                check(known, "the head is not that of this pack")
                check(epoch in self.ring["entry"], f"the ring has no entry key of epoch {epoch}")
                key, suffix = self.ring["entry"][epoch], f"-{generation}" if generation else ""
                end = self.checkpoint.keys_length if pack == last else (self.folder / name).stat().st_size
                while (at := file.tell()) < end:
                    box = file.read(struct.unpack(">I", file.read(4))[0])
                    plain = open_box(key, b"frame " + head + struct.pack(">Q", at), box)
                    length = struct.unpack_from(">I", plain)[0]
                    check(4 + length <= len(plain), "a frame is longer than its box")
                    yield name, f"{stem}{suffix}.pack", Frame(plain[4 : 4 + length])
                check(at == end, "the last frame does not end where the file or the checkpoint says")

    def survey(self):
        """Collects what later frames say of earlier messages, and checks the chain of commits and the ledger."""
        commit, ledger = 0, Ledger(self.folder)
        for name, pack, frame in self.frames():
            with reading(name):
                commit += 1
                check(frame.commit == commit, f"commit {frame.commit} is where {commit} must be")
                check(frame.first_leaf == ledger.size, f"commit {commit} begins at another leaf")
                self.note(pack, frame)
            for leaf in frame.repeated[5]:
                ledger.add(leaf)
        root = ledger.root()
        with reading("ledger/checkpoint"):
            check(commit == self.checkpoint.commit, f"the last commit is {commit}, not that of the checkpoint")
            check(ledger.size == self.checkpoint.size, "the frames have another number of leaves")
            check(root == self.checkpoint.root, "the root of the frames' leaves is another one")

    def note(self, pack, frame):
        for e in frame.records(4):
            if 7 in e:  # else erased
                self.objects[e[1]] = Entry(pack, e.get(3, 0), e[4], e.get(5, 0), e.get(6, 0), e[7])
        for folder in frame.records(8):
            self.folders[folder[1]] = folder.get(3, b"").decode()
        for occurrence in frame.records(7):
            self.found[occurrence.get(1, 0)].add(occurrence.get(2, 0))
        for act in frame.records(10):
            frame.check_leaf(10, act, act[2], sha256(act.get(4, b"")))
        claimed = {item.get(1, 0) for number in LEAF_KINDS for item in frame.records(number)}
        for leaf in set(range(len(frame.repeated[5]))) - claimed:
            check(frame.repeated[5][leaf][1] == LEAF_KINDS[6], "an act is missing")
            self.gone.append(frame.first_leaf + leaf)

    def messages(self):
        """Yields (record, raw bytes) of every message; an erased one has only its leaf left."""
        for name, _, frame in self.frames():
            for message in frame.records(6):
                with reading(name):
                    raw = self.raw(message[3])
                    total = sha256(raw)
                    check(len(raw) == message.get(5, 0), f"message {message[2].hex()} has another length")
                    check(self.content_id(MESSAGE, total) == message[2], f"id of {message[2].hex()} does not match")
                    frame.check_leaf(6, message, message[6], total)
                yield message, raw

    def content(self, kind, name):
        """Opens one object: unseals it, decompresses it, and compares its id."""
        check(name in self.objects, f"object {name.hex()} is in no frame")
        entry = self.objects[name]
        with reading(entry.pack), open(self.folder / entry.pack, "rb") as file:
            file.seek(entry.offset)
            sealed = file.read(entry.sealed)
            check(len(sealed) == entry.sealed, f"the file ends within object {name.hex()}")
            content = open_object(entry.key, self.id.encode() + bytes([kind]) + name, sealed)
            if not entry.stored:
                content = self.decompress(content, entry.length)
            check(len(content) == entry.length, f"object {name.hex()} has another length")
            check(self.content_id(kind, sha256(content)) == name, f"id of object {name.hex()} does not match")
        return content

    def decompress(self, frame, length):
        """Takes the dictionary's id out of the frame first: a raw content dictionary
        has no id in the library, which then refuses the frame."""
        width = (0, 1, 2, 4)[frame[4] & 3]
        at = 5 if frame[4] & 0x20 else 6
        named = int.from_bytes(frame[at : at + width], "little")
        check(named == DICTIONARY_ID, f"dictionary {named:#x} is unknown")
        frame = frame[:4] + bytes([frame[4] & 0xFC]) + frame[5:at] + frame[at + width :]
        return zstandard.ZstdDecompressor(dict_data=self.dictionary).decompress(frame, max_output_size=length)

    def raw(self, skeleton):
        """Puts a message together from its skeleton and parts."""
        pieces = []
        for number, value in fields(self.content(SKELETON, skeleton)):
            if number == 1:
                pieces.append(value)
            elif number == 2:
                pieces.append(self.segment(record(value)))
        return b"".join(pieces)

    def segment(self, s):
        data = self.content(PART, s[2]) if 2 in s else s.get(1, b"")
        check(2 not in s or len(data) == s.get(3, 0), "a part has another length than its segment says")
        if not s.get(4):
            return data
        text = base64.b64encode(data)
        width = s.get(5) or len(text) or 1
        lines = (text[at : at + width] for at in range(0, len(text), width))
        return (b"\n" if s.get(6) else b"\r\n").join(lines) + s.get(7, b"")

    def folder_names(self, row):
        return sorted({self.folders.get(folder, f"#{folder}") for folder in self.found.get(row, ())})


def list_messages(archive):
    epoch = datetime(1970, 1, 1, tzinfo=timezone.utc)
    for message, raw in archive.messages():
        row = message.get(7, 0)
        date = (epoch + timedelta(seconds=row >> 24)).strftime("%Y-%m-%dT%H:%M:%SZ")
        names = ", ".join(archive.folder_names(row))
        print(message[2].hex(), date, len(raw), sha256(raw).hex(), names)


def extract(archive, folder):
    folder.mkdir(parents=True, exist_ok=True)
    count = 0
    for message, raw in archive.messages():
        (folder / f"{message[2].hex()}.eml").write_bytes(raw)
        count += 1
    print(f"{count} messages, ledger of {archive.checkpoint.size} leaves: all match")


def arguments():
    parser = argparse.ArgumentParser(description="Reads an archive of Letterhold by docs/format.md alone.")
    parser.add_argument("archive", type=Path)
    key = parser.add_mutually_exclusive_group(required=True)
    key.add_argument("--words-file", help="file with the 24 recovery words")
    key.add_argument("--key-file")
    key.add_argument("--passphrase-file")
    parser.add_argument("--wordlist", default=HERE / "bip39-english.txt")
    parser.add_argument("--dictionary", default=HERE.parent / "internal/store/dictionary.txt")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="a line a message: id, date, size, SHA-256, folders")
    commands.add_parser("extract", help="write each message to DIR/ID.eml").add_argument("dir", type=Path)
    return parser.parse_args()


def main():
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # list | head
    args = arguments()
    try:
        archive = Archive(args.archive, *secret(args), args.dictionary)
        if args.command == "list":
            list_messages(archive)
        else:
            extract(archive, args.dir)
        if archive.gone:
            print(f"reader: erased messages have left leaves behind: {sorted(archive.gone)}", file=sys.stderr)
    except Damage as err:
        sys.exit(f"reader: {err}")


if __name__ == "__main__":
    main()
