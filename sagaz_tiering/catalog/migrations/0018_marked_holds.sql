-- Whether Redis has had the marks of a hold on a saga; what it loses later is put back by `expire` and `reconcile`.
ALTER TABLE sagaz_tiering.holds ADD COLUMN marked boolean NOT NULL DEFAULT false;
