-- Will this flight arrive more than 15 minutes late, as of one hour before its scheduled departure?
-- One row per scheduled flight; every feature is a value that was known at predicted_at, never later.
--
-- Written to run on DuckDB and, transpiled by sqlglot, on Spark: moments are whole seconds (BIGINT) where a
-- window needs them, averages are of integers (the same bits at any number of threads), time zones are arithmetic.
-- time_hour is UTC in both tables; the local hour occurs twice on 3 November, so nothing joins on it.
-- The month is no feature on purpose: it drifts by nature and a year of data says nothing about the next one's.

with scheduled as (
  select
    f.carrier,
    f.flight,
    f.origin,
    f.dest,
    f.distance,
    f.hour,
    f.minute,
    f.dep_delay,
    f.arr_delay,
    f.time_hour + interval '1' minute * f.minute as scheduled_at,
    date_diff('second', timestamp '1970-01-01 00:00:00', f.time_hour) + f.minute * 60 as departs,
    -- 2001-01-01 was a Monday; dayofweek() counts from 0 here and from 1 there
    date_diff('day', date '2001-01-01', make_date(f.year, f.month, f.day)) % 7 + 1 as weekday,
    (f.sched_arr_time - f.sched_arr_time % 100) / 100 * 60 + f.sched_arr_time % 100 as arrival_clock,
    -- The destination's offset to UTC in hours. New York is at UTC-4 exactly while US daylight saving lasts, and
    -- airports with dst 'A' follow it. The four airports that the table lacks are in Puerto Rico and the Virgin
    -- Islands: UTC-4 all year.
    coalesce(a.tz, -4)
      + case
        when a.dst = 'A' and (extract(hour from f.time_hour) - f.hour + 24) % 24 = 4 then 1
        else 0
      end as dest_offset
  from flights as f
  left join airports as a on f.dest = a.faa
),

timed as (
  select
    *,
    -- minutes from the scheduled departure to the next time that the destination's clock shows the arrival
    cast(
      (arrival_clock - (departs % 86400) / 60 - dest_offset * 60 + 2880) % 1440 as bigint
    ) as scheduled_minutes
  from scheduled
),

-- What becomes known when, and the moments at which we ask (asks = 1). Whether an arrival is late is known when it
-- lands, or 15 minutes past schedule when it still has not; a departure delay is known at the actual departure.
-- A cancelled or diverted flight never says whether it was late. What asks has no value: averages pass it by.
arrivals as (
  select
    departs + (scheduled_minutes + least(arr_delay, 15)) * 60 as known_at,
    carrier, origin, dest, flight, departs,
    0 as asks,
    case when arr_delay > 15 then 1 else 0 end as late
  from timed
  where arr_delay is not null
  union all
  select departs - 3600, carrier, origin, dest, flight, departs, 1, null
  from timed
),

departures as (
  select departs + dep_delay * 60 as known_at, carrier, origin, flight, departs, 0 as asks, dep_delay as delay
  from timed
  where dep_delay is not null
  union all
  select departs - 3600, carrier, origin, flight, departs, 1, null
  from timed
),

lateness as (
  select
    carrier, flight, origin, departs, asks,
    avg(late) over carrier_7d as carrier_late_7d,
    avg(late) over origin_24h as origin_late_24h,
    avg(late) over origin_3h as origin_late_3h,
    avg(late) over dest_7d as dest_late_7d,
    avg(late) over dest_6h as dest_late_6h,
    avg(late) over route_28d as route_late_28d
  from arrivals
  window
    carrier_7d as (partition by carrier order by known_at range between 604800 preceding and current row),
    origin_24h as (partition by origin order by known_at range between 86400 preceding and current row),
    origin_3h as (partition by origin order by known_at range between 10800 preceding and current row),
    dest_7d as (partition by dest order by known_at range between 604800 preceding and current row),
    dest_6h as (partition by dest order by known_at range between 21600 preceding and current row),
    route_28d as (partition by origin, dest order by known_at range between 2419200 preceding and current row)
),

delays as (
  select
    carrier, flight, origin, departs, asks,
    avg(delay) over origin_3h as origin_delay_3h,
    avg(delay) over carrier_6h as carrier_delay_6h
  from departures
  window
    origin_3h as (partition by origin order by known_at range between 10800 preceding and current row),
    carrier_6h as (partition by carrier order by known_at range between 21600 preceding and current row)
),

-- Each observation stands for its own hour and the two after it; the newest wins where they overlap. So a gap of
-- up to two hours is bridged, and no weather is three hours old.
observed as (
  select
    w.*,
    w.time_hour + interval '1' hour * age.hours as valid_hour,
    row_number() over (
      partition by w.origin, w.time_hour + interval '1' hour * age.hours order by age.hours
    ) as recency
  from weather as w
  cross join (select 0 as hours union all select 1 as hours union all select 2 as hours) as age
)

select
  t.arr_delay > 15 as late,               -- null: cancelled or diverted
  t.scheduled_at - interval '1' hour as predicted_at,
  t.scheduled_at,
  t.flight,
  t.carrier,
  t.origin,
  t.dest,
  t.weekday,                              -- 1 Monday … 7 Sunday, New York
  t.hour * 60 + t.minute as local_minute, -- of the day, New York
  t.distance,
  t.scheduled_minutes,
  -- dew point, pressure and wind direction are left out: they tell the season more than the day
  w.temp,
  w.humid,
  w.wind_speed,
  w.precip,
  w.visib,
  l.carrier_late_7d,
  l.origin_late_24h,
  l.origin_late_3h,
  l.dest_late_7d,
  l.dest_late_6h,
  l.route_late_28d,
  d.origin_delay_3h,   -- minutes
  d.carrier_delay_6h   -- minutes
from timed as t
inner join lateness as l
  on l.asks = 1 and t.carrier = l.carrier and t.flight = l.flight and t.origin = l.origin and t.departs = l.departs
inner join delays as d
  on d.asks = 1 and t.carrier = d.carrier and t.flight = d.flight and t.origin = d.origin and t.departs = d.departs
left join observed as w
  on w.recency = 1
  and t.origin = w.origin
  and date_trunc('hour', t.scheduled_at - interval '1' hour) = w.valid_hour
