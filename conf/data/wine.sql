-- Columns by position: the file has no header of its own.
select
  column00 as alcohol,
  column01 as malic_acid,
  column02 as ash,
  column03 as alcalinity_of_ash,
  column04 as magnesium,
  column05 as total_phenols,
  column06 as flavanoids,
  column07 as nonflavanoid_phenols,
  column08 as proanthocyanins,
  column09 as color_intensity,
  column10 as hue,
  column11 as od280_od315,
  column12 as proline,
  'class_' || column13 as cultivar
from wines
