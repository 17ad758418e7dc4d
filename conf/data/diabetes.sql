-- Two files without a header or a key: their lines belong together in order.
with
  p as (select *, row_number() over () as line from patients),
  o as (select column0 as progression, row_number() over () as line from outcomes)
select
  column0 as age,
  cast(column1 as varchar) as sex,
  column2 as bmi,
  column3 as blood_pressure,
  column4 as total_cholesterol,
  column5 as ldl,
  column6 as hdl,
  column7 as cholesterol_ratio,
  column8 as triglycerides,
  column9 as glucose,
  progression
from p join o using (line)
