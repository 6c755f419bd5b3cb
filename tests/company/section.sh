# The work that must not be done twice at a time: sh section.sh DIRECTORY NAME
#
# It counts, and it notices company: whoever is in here at the same time overwrites the lease, or reads
# the count before it has been written back.
cd "$1" || exit 9
echo "$2" >lease
read -r count <count
echo $((count + 1)) >count
read -r who <lease
[ "$who" = "$2" ] || echo "$2 met $who" >>company
