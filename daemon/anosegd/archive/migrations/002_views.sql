-- Verdicts with the shift and the day in which they were committed, in the configured time zone.
CREATE VIEW verdict_in_shift AS
SELECT v.*, local_at::date AS day,
       coalesce(
           local_at::date + (SELECT max(s) FROM unnest(shifts) AS s WHERE s <= local_at::time),
           local_at::date - 1 + (SELECT max(s) FROM unnest(shifts) AS s)
       ) AS shift
FROM (
    SELECT v.*, v.committed_at AT TIME ZONE (SELECT time_zone FROM report_setting) AS local_at,
           (SELECT shifts FROM report_setting) AS shifts
    FROM verdict AS v
) AS v;

CREATE VIEW report_shift AS
SELECT station, camera, recipe, shift, count(*) AS parts,
       count(*) FILTER (WHERE outcome = 'PASS') AS passed,
       count(*) FILTER (WHERE outcome = 'FAIL') AS failed,
       count(*) FILTER (WHERE outcome = 'UNKNOWN') AS unknown,
       round(count(*) FILTER (WHERE outcome <> 'PASS') / count(*)::numeric, 5) AS reject_share,
       avg(total_ms) AS total_ms_mean,
       percentile_cont(0.95) WITHIN GROUP (ORDER BY total_ms) AS total_ms_p95,
       min(committed_at) AS first_at, max(committed_at) AS last_at
FROM verdict_in_shift GROUP BY station, camera, recipe, shift;

CREATE VIEW report_day AS
SELECT station, camera, recipe, day, count(*) AS parts,
       count(*) FILTER (WHERE outcome = 'PASS') AS passed,
       count(*) FILTER (WHERE outcome = 'FAIL') AS failed,
       count(*) FILTER (WHERE outcome = 'UNKNOWN') AS unknown,
       round(count(*) FILTER (WHERE outcome <> 'PASS') / count(*)::numeric, 5) AS reject_share,
       avg(total_ms) AS total_ms_mean,
       percentile_cont(0.95) WITHIN GROUP (ORDER BY total_ms) AS total_ms_p95
FROM verdict_in_shift GROUP BY station, camera, recipe, day;

CREATE VIEW report_unknown AS
SELECT station, camera, recipe, day, reason, count(*) AS parts
FROM verdict_in_shift WHERE outcome = 'UNKNOWN' GROUP BY station, camera, recipe, day, reason;

-- The time from one part of a camera to the next. The median is that of the running line; pauses do not change it.
CREATE VIEW report_cycle AS
SELECT station, camera, shift, count(cycle_s) AS cycles,
       percentile_cont(0.5) WITHIN GROUP (ORDER BY cycle_s) AS cycle_s_median,
       percentile_cont(0.95) WITHIN GROUP (ORDER BY cycle_s) AS cycle_s_p95
FROM (
    SELECT station, camera, shift,
           extract(epoch FROM captured_at - lag(captured_at) OVER (PARTITION BY journal_id, camera ORDER BY seq)) AS cycle_s
    FROM verdict_in_shift
) AS cycle GROUP BY station, camera, shift;

-- The mark of each part that counts: the newest that was not taken back.
CREATE VIEW part_mark AS
SELECT DISTINCT ON (f.journal_id, f.seq) f.journal_id, f.seq, v.station, v.camera, v.part_id, v.outcome, f.mark, f.comment, f.who, f.at
FROM feedback AS f JOIN verdict AS v USING (journal_id, seq)
WHERE f.undoes IS NULL
  AND NOT EXISTS (SELECT FROM feedback AS u WHERE u.journal_id = f.journal_id AND u.undoes = f.number)
ORDER BY f.journal_id, f.seq, f.number DESC;

-- How far the archive is behind each station.
CREATE VIEW report_station AS
SELECT s.name AS station, s.state, s.version, s.answered_at, j.cursor AS archived_to, s.last_seq,
       greatest(s.last_seq - j.cursor, 0) AS behind
FROM station AS s LEFT JOIN journal AS j USING (journal_id);
