"""Downloads against a local server that behaves like the hub, faults included."""

import json
import threading
import time
from email.utils import formatdate

import pytest
from hub_server import Fault, fake_hub

from nanochat import download
from nanochat.download import DownloadFailed, Hub, RemoteFile, download_all
from scripts import data_download

REPOSITORY = "karpathy/climbmix-400b-shuffle"
BODY = bytes(range(256)) * 40  # 10,240 bytes: every place in it is told from its neighbours


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with fake_hub() as served:
        served.files["a.bin"] = BODY
        yield served


@pytest.fixture
def fetch(hub, tmp_path):
    """Fetch a.bin (or others) into a folder, quickly impatient."""

    def run(*names, **settings):
        files = [RemoteFile(REPOSITORY, name, tmp_path / name) for name in names or ("a.bin",)]
        quick = {"backoff_s": 0.01, "attempts": 3, "timeout_s": 5.0, **settings}
        return download_all(files, Hub(endpoint=hub.endpoint, **quick), workers=3)

    return run


def ranges(hub):
    return [headers.get("range") for headers in hub.asked_of("cdn")]


def test_a_file_comes_through_the_redirect_and_is_not_fetched_twice(hub, fetch, tmp_path):
    assert fetch() == 1
    assert (tmp_path / "a.bin").read_bytes() == BODY
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]
    assert fetch() == 0
    assert len(hub.requests) == 2  # the hub and the CDN, once each


def test_a_body_cut_in_the_middle_is_continued_where_it_stopped(hub, fetch, tmp_path):
    hub.faults["a.bin"] = [Fault(cut_at=3000), Fault(cut_at=2000), Fault(cut_at=1000)]
    assert fetch(attempts=2) == 1  # each attempt brought bytes, so none counts against the limit
    assert (tmp_path / "a.bin").read_bytes() == BODY
    assert ranges(hub) == [None, "bytes=3000-", "bytes=5000-", "bytes=6000-"]


def test_a_part_left_by_a_killed_command_is_continued(hub, fetch, tmp_path):
    (tmp_path / "a.bin.part").write_bytes(BODY[:7777])
    fetch()
    assert ranges(hub) == ["bytes=7777-"]
    assert (tmp_path / "a.bin").read_bytes() == BODY


def test_a_part_that_is_already_whole_only_gets_its_name(hub, fetch, tmp_path):
    (tmp_path / "a.bin.part").write_bytes(BODY)
    fetch()
    assert (tmp_path / "a.bin").read_bytes() == BODY
    assert ranges(hub) == [f"bytes={len(BODY)}-"]


@pytest.mark.parametrize("size", [5000, 20_000], ids=["shorter", "longer"])
def test_a_part_of_another_version_is_thrown_away(fetch, tmp_path, size):
    (tmp_path / "a.bin.part").write_bytes(b"z" * size)
    fetch()
    assert (tmp_path / "a.bin").read_bytes() == BODY


def test_a_server_that_ignores_ranges_sends_the_file_again(hub, fetch, tmp_path):
    hub.faults["a.bin"] = [Fault(cut_at=3000), Fault(ignore_range=True)]
    fetch()
    assert (tmp_path / "a.bin").read_bytes() == BODY


def test_a_server_without_ranges_that_always_cuts_is_given_up(hub, fetch):
    cuts = [3000, 100, 3000, 100, 3000, 100, 3000]
    hub.faults["a.bin"] = [Fault(cut_at=at, ignore_range=True) for at in cuts]
    with pytest.raises(DownloadFailed, match="3 attempts"):
        fetch()
    assert len(ranges(hub)) == 3


def test_server_errors_are_tried_again(hub, fetch, tmp_path):
    hub.faults["a.bin"] = [Fault(status=503), Fault(status=500)]
    fetch()
    assert (tmp_path / "a.bin").read_bytes() == BODY


def test_an_unwilling_server_is_given_up_after_the_attempts_allowed(hub, fetch, tmp_path):
    hub.faults["a.bin"] = [Fault(status=503)] * 9
    with pytest.raises(DownloadFailed, match=r"answered 503 \(3 attempts\)"):
        fetch()
    assert len(ranges(hub)) == 3
    assert not (tmp_path / "a.bin").exists()


@pytest.mark.parametrize("kind", ["seconds", "date", "neither"])
def test_retry_after_is_obeyed(hub, fetch, monkeypatch, kind):
    waits = []

    class Impatient(threading.Event):
        def wait(self, timeout=None):
            waits.append(timeout)
            return False

    monkeypatch.setattr(download, "Event", Impatient)
    when = {"seconds": "7", "date": formatdate(time.time() + 100), "neither": "soon"}[kind]
    hub.faults["a.bin"] = [Fault(status=429, headers={"Retry-After": when})]
    fetch()
    low, high = {"seconds": (7, 10.5), "date": (90, 120), "neither": (0.01, 0.015)}[kind]
    assert len(waits) == 1 and low <= waits[0] <= high


def test_pauses_double_and_differ_between_files(tmp_path):
    hub = Hub(backoff_s=1.0)
    files = [RemoteFile(REPOSITORY, f"{n}.bin", tmp_path / f"{n}.bin") for n in range(4)]
    for failures in (1, 2, 3, 4):
        pauses = {download.pause_s(Exception(), failures, hub, file) for file in files}
        assert all(2 ** (failures - 1) <= p <= 1.5 * 2 ** (failures - 1) for p in pauses)
        assert len(pauses) == len(files)


def test_wrong_bytes_are_fetched_anew_once(hub, fetch, tmp_path):
    hub.faults["a.bin"] = [Fault(corrupt=True)]
    fetch()
    assert (tmp_path / "a.bin").read_bytes() == BODY


def test_bytes_that_stay_wrong_never_get_the_files_name(hub, fetch, tmp_path):
    hub.faults["a.bin"] = [Fault(corrupt=True)] * 2
    with pytest.raises(DownloadFailed, match="checksum is wrong, twice"):
        fetch()
    assert list(tmp_path.iterdir()) == []


def test_a_small_file_that_the_hub_serves_itself_is_checked_by_gits_hash(hub, fetch, tmp_path):
    hub.small.add("a.bin")
    hub.faults["a.bin"] = [Fault(corrupt=True)]
    fetch()
    assert (tmp_path / "a.bin").read_bytes() == BODY
    assert len(hub.asked_of("hub")) == 2 and not hub.asked_of("cdn")


def test_a_missing_file_is_reported_and_the_others_still_come(hub, fetch, tmp_path):
    with pytest.raises(DownloadFailed, match=r"1 of 2 files .* no such file \(status 404\)"):
        fetch("a.bin", "nowhere.bin")
    assert (tmp_path / "a.bin").read_bytes() == BODY
    assert len([p for _, p, _ in hub.requests if "nowhere" in p]) == 1  # asking again is no use


def test_the_token_goes_to_the_hub_alone_and_is_never_shown(hub, fetch, monkeypatch):
    hub.token = "hf_secret"
    with pytest.raises(DownloadFailed, match="set HF_TOKEN"):
        fetch()
    fetch(token="hf_secret")
    assert hub.asked_of("hub")[-1]["authorization"] == "Bearer hf_secret"
    assert all("authorization" not in headers for headers in hub.asked_of("cdn"))
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("HF_ENDPOINT", "http://mirror.example/")
    settings = Hub.from_environment()
    assert settings.token == "hf_secret" and settings.endpoint == "http://mirror.example"
    assert "secret" not in repr(settings)


def test_an_endpoint_that_is_no_address_is_refused(monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "mirror.example")
    with pytest.raises(DownloadFailed, match="HF_ENDPOINT"):
        Hub.from_environment()


def test_no_server_at_all_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    file = RemoteFile(REPOSITORY, "a.bin", tmp_path / "a.bin")
    nobody = Hub(endpoint="http://127.0.0.1:9", attempts=2, backoff_s=0.01)
    with pytest.raises(DownloadFailed, match="2 attempts"):
        download_all([file], nobody)


def test_a_disk_too_small_is_noticed_before_it_is_full(fetch, tmp_path, monkeypatch):
    few = download.shutil.disk_usage(tmp_path)._replace(free=100)
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: few)
    with pytest.raises(DownloadFailed, match="free some space"):
        fetch()


def test_ctrl_c_stops_every_worker_and_keeps_the_parts(hub, tmp_path):
    names = [f"{n}.bin" for n in range(6)]
    hub.files.update({name: BODY for name in names})
    files = [RemoteFile(REPOSITORY, name, tmp_path / name) for name in names]

    def interrupted(file, here, size):
        if here >= 1024:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        download_all(files, Hub(endpoint=hub.endpoint), workers=2, report=interrupted)
    assert not list(tmp_path.glob("*.bin")) and list(tmp_path.glob("*.part"))
    assert download_all(files, Hub(endpoint=hub.endpoint), workers=2) == 6
    assert all(file.destination.read_bytes() == BODY for file in files)


# --- the command ---


@pytest.fixture
def command(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path))
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    for shard in (0, 1, 2, 6542):
        hub.files[f"shard_{shard:05d}.parquet"] = BODY + bytes([shard % 256])
    return tmp_path / "data" / "climbmix"


def test_the_command_fetches_the_shards_asked_for_and_the_validation_shard(command, capsys):
    assert not data_download.main(["--dataset", "climbmix", "--shards", "2", "--json"])
    record = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert record == {"dataset": "climbmix", "fetched": 3, "files": 3, "folder": str(command)}
    assert sorted(p.name for p in command.iterdir()) == [
        "shard_00000.parquet",
        "shard_00001.parquet",
        "shard_06542.parquet",
    ]


def test_the_command_fails_when_a_shard_is_missing(command, hub):
    del hub.files["shard_06542.parquet"]
    with pytest.raises(DownloadFailed, match=r"shard_06542.*404"):
        data_download.main(["--dataset", "karpathy/climbmix-400b-shuffle", "--shards", "1"])
    assert (command / "shard_00000.parquet").exists()


@pytest.mark.parametrize("flags", [["--dataset", "nobody/nothing"], ["--shards", "0"]])
def test_the_command_refuses_what_is_not_there(command, flags):
    with pytest.raises(download.UserError):
        data_download.main(flags)
