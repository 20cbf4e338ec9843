"""Every durable verdict is in the database exactly once, whatever is killed. `make archive-kills` does this at length."""

from collections.abc import Callable

from support.postgres import FAST, running
from support.verdict_archive import Archive, Database, JournalStation, differences


def test_every_verdict_is_there_once_after_kills(
    make_station: Callable[..., JournalStation], make_archive: Callable[..., Archive]
) -> None:
    """An archive, a database and a station are killed while they work. Rows equal the journals, and void numbers are noted."""
    with running(*FAST) as server:
        database = Database(server, "plant")
        stations = [make_station(name, 4000, rate=1500) for name in ("press-4", "press-5")]
        archive = make_archive(*stations, conninfo=database.conninfo)
        database.wait_for_verdicts(500)
        archive.kill()
        archive.start()
        database.wait_for_verdicts(1500)
        server.kill()
        stations[0].kill()
        stations[0].start()
        archive.wait_for("archive.database_away")
        server.start()
        database.wait_for_verdicts(7000)
        journals: dict[tuple[str, int], dict[str, object]] = {}
        for station in stations:
            database.wait_until_archived(station)
            station.terminate()
            journals |= station.journal()
        assert len(journals) >= 8000
        assert archive.terminate() == 0
        assert differences(database.verdicts(), journals) == []
        assert [kind for _, kind, *_ in database.events()].count("begun") == 2
        voids = database.query("SELECT sum(last - first + 1) FROM anoseg.event WHERE kind = 'void'")[0][0] or 0
        assert database.query("SELECT sum(cursor) FROM anoseg.journal")[0][0] == len(journals) + voids
        assert archive.log.count('"archive.database_away"') <= 3  # once for each reason, not at every attempt
        assert '"archive.database_back"' in archive.log
