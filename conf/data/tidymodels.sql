-- The published setting of tidymodels' article "Preprocess your data with recipes" (https://www.tidymodels.org/start/recipes):
-- late is 30 minutes or more, and dep_time and air_time are features although nobody knows them before departure. It is
-- kept to be measured against, and as a query that the leakage check must reject by name.
-- 325,819 rows, 52,540 late: flights with an observation in their own hour and no missing value.
select
  f.arr_delay >= 30 as late,
  f.time_hour + interval '1' minute * f.minute - interval '1' hour as predicted_at,
  f.time_hour + interval '1' minute * f.minute as scheduled_at,
  f.flight,
  f.carrier,
  f.origin,
  f.dest,
  f.dep_time,                -- leaks: hhmm of the actual departure, New York
  f.air_time,                -- leaks: minutes in the air
  f.distance,
  cast(date_diff('day', date '2001-01-01', make_date(f.year, f.month, f.day)) % 7 + 1 as varchar) as weekday, -- 1 Monday
  cast(f.month as varchar) as month,
  case f.month * 100 + f.day  -- the US holidays of 2013 in R's timeDate
    when 101 then 'New Year'
    when 121 then 'Martin Luther King'
    when 212 then 'Lincoln'
    when 218 then 'Presidents'
    when 222 then 'Washington'
    when 304 then 'Pulaski'
    when 329 then 'Good Friday'
    when 527 then 'Memorial'
    when 530 then 'Decoration'
    when 619 then 'Juneteenth'
    when 704 then 'Independence'
    when 902 then 'Labor'
    when 1014 then 'Columbus'
    when 1105 then 'Election'
    when 1111 then 'Veterans'
    when 1128 then 'Thanksgiving'
    when 1225 then 'Christmas'
    else 'none'
  end as holiday
from flights as f
inner join weather as w on f.origin = w.origin and f.time_hour = w.time_hour
where f.arr_delay is not null and f.dep_time is not null and f.air_time is not null
