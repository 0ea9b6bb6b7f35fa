-- name: spend
-- Count a spending unless the day's budget ($5 requests, $6 USD; NULL: none) would be exceeded; a row if counted.
INSERT INTO sagaz_tiering.spending AS s (day, kind, requests, usd)
SELECT $1::date, $2::text, $3::bigint, $4::float8
  FROM (SELECT coalesce(sum(requests), 0) AS requests, coalesce(sum(usd), 0) AS usd
          FROM sagaz_tiering.spending WHERE day = $1) AS today
 WHERE ($5::bigint IS NULL OR today.requests + $3 <= $5)
   AND ($6::float8 IS NULL OR today.usd + $4 <= $6)
ON CONFLICT (day, kind) DO UPDATE SET requests = s.requests + excluded.requests, usd = s.usd + excluded.usd
RETURNING 1

-- name: spent_on
SELECT kind, requests, usd FROM sagaz_tiering.spending WHERE day = $1 ORDER BY kind

-- name: spent_since
-- By day, from the day $1 on.
SELECT to_char(day, 'YYYY-MM-DD') AS day, sum(requests)::bigint AS requests, sum(usd) AS usd
  FROM sagaz_tiering.spending WHERE day >= $1 GROUP BY day ORDER BY day
