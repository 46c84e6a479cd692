"""The file of features comes whole over a bad line, and what can not be had is told in one line."""

import datetime
import hashlib
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from pipeline.errors import Unavailable, UserError
from pipeline.evaluation import module_file
from pipeline.evaluation.module_file import ModuleFile
from pipeline.patience import Patience
from pipeline.storage import Storage

DATA = bytes(range(256)) * 400
SHA256 = hashlib.sha256(DATA).hexdigest()


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(module_file, "_PATIENCE", Patience(attempts=4, first_pause=0.01))


@pytest.fixture(scope="module")
def certificate(tmp_path_factory) -> Path:
    """Of 127.0.0.1 by itself, with its key in the same file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    path.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    return path


class Server(ThreadingHTTPServer):
    """Answers with `answers` in turn: a status, `cut` for half a body, `whole`; the last again and again."""

    answers: list[int | str]
    asked = 0


class Answers(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        answer = self.server.answers[min(self.server.asked, len(self.server.answers) - 1)]
        self.server.asked += 1
        self.send_response(answer if isinstance(answer, int) else 200)
        self.send_header("Content-Length", str(len(DATA)))
        self.end_headers()
        if not isinstance(answer, int):
            self.wfile.write(DATA[: len(DATA) // 2] if answer == "cut" else DATA)

    def log_message(self, *arguments) -> None:
        pass


@pytest.fixture
def server(certificate) -> Iterator[Server]:
    server = Server(("127.0.0.1", 0), Answers)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate)
    server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def file(server, tmp_path) -> ModuleFile:
    return ModuleFile(f"https://127.0.0.1:{server.server_address[1]}/a.pt?key=secret", SHA256, tmp_path / "cache")


@pytest.fixture
def trusted(certificate, monkeypatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))


@pytest.mark.usefixtures("trusted")
def test_what_ends_too_soon_or_is_refused_for_now_is_asked_for_again(server, file):
    server.answers = [503, "cut", 429, "whole"]
    assert file.read() == DATA
    assert server.asked == 4
    assert file.read() == DATA  # from the cache
    assert server.asked == 4 and [one.name for one in file.cache.iterdir()] == [f"{SHA256}.pt"]


@pytest.mark.usefixtures("trusted")
def test_what_does_not_pass_is_told_once_the_attempts_are_used_up(server, file):
    server.answers = ["cut"]
    with pytest.raises(Unavailable, match="IncompleteRead") as error:
        file.read()
    assert server.asked == 4 and "secret" not in str(error.value) and not file.cache.exists()


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize(("status", "said"), [(404, "is not there"), (403, "HTTP Error 403")])
def test_what_no_other_attempt_would_change_is_not_asked_for_again(server, file, status, said):
    server.answers = [status]
    with pytest.raises(UserError, match=said) as error:
        file.read()
    assert server.asked == 1 and not isinstance(error.value, Unavailable) and "secret" not in str(error.value)


def test_a_server_that_nobody_vouches_for_is_not_asked(server, file):
    server.answers = ["whole"]
    with pytest.raises(UserError, match="certificate verify failed") as error:
        file.read()
    assert server.asked == 0 and not isinstance(error.value, Unavailable)


def test_an_object_store_that_is_busy_is_asked_again(faulty_root, proxy, tmp_path):
    storage = Storage(faulty_root)
    storage.write("a.pt", DATA)
    proxy.fail("busy", 5, path="a.pt")  # more than the client's own attempts
    file = ModuleFile(storage.child_uri("a.pt"), SHA256, tmp_path / "cache")
    assert file.read() == DATA and len(proxy.hit) == 5


def test_it_is_kept_if_asked_for(tmp_path):
    (tmp_path / "a.pt").write_bytes(DATA)
    file = ModuleFile(str(tmp_path / "a.pt"), SHA256, tmp_path / "cache")
    assert file.read(keep=False) == DATA and not file.cache.exists()
    assert file.read() == DATA and [one.name for one in file.cache.iterdir()] == [f"{SHA256}.pt"]


def test_a_cache_that_can_not_be_written_is_a_note(tmp_path, heard):
    (tmp_path / "a.pt").write_bytes(DATA)
    file = ModuleFile(str(tmp_path / "a.pt"), SHA256, tmp_path / "a.pt" / "cache")
    assert file.read() == DATA
    assert len(heard.notes) == 1 and "is not kept in" in heard.notes[0]


def test_a_folder_is_told_of(tmp_path):
    with pytest.raises(UserError, match="cannot fetch"):
        ModuleFile(str(tmp_path), SHA256, tmp_path / "cache").read()


@pytest.mark.parametrize(
    "address",
    [
        "https://user:hush@host/x.pt",
        "https://host:hush/x.pt",
        "https://host/a b.pt",
        "https://host/ä.pt",
        "https:///x.pt",
    ],
)
def test_an_address_that_can_not_be_asked_is_told_without_it(address, tmp_path):
    with pytest.raises(UserError, match=r"^evaluation\.features is no address that can be fetched") as error:
        ModuleFile(address, SHA256, tmp_path).read()
    assert "hush" not in str(error.value) and not isinstance(error.value, Unavailable)
