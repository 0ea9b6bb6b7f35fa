-- Why a run ended before its end though nothing was wrong: its window, the day's budget, a stop. Faults stay `error`.
ALTER TABLE sagaz_tiering.job_runs ADD COLUMN stopped text;
