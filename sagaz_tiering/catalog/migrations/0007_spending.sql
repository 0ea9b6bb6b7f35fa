-- What jobs spent on the object store, by UTC day: counted before each request, so never too little.
CREATE TABLE sagaz_tiering.spending (
    day       date NOT NULL,
    kind      text NOT NULL,               -- age, transition, restore, compact, scrub
    requests  bigint NOT NULL,
    usd       double precision NOT NULL,
    PRIMARY KEY (day, kind)
);
