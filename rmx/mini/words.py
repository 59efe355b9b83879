"""The names and things that the miniature's problems are about."""

_NAMES = """
Ann Ben Cara Dan Eva Finn Gia Hugo Ida Jon Kim Leo Mia Ned Ola Pam
Ada Aiko Alma Amir Anya Arjun Asha Ayo Bao Bela Bruno Carl Chen Cleo Clara Daria Diego Dina
Dora Elif Emil Emma Enzo Erik Esra Fatima Felix Femi Fiona Gita Greta Hana Hans Hassan Helen Igor
Ines Iris Isla Ivan Jamal Jana Jin Joan Jorge Julia Kai Karim Kofi Lara Lars Leila Lena Lin
Liam Lucia Luis Maja Mara Marco Mei Milo Mona Nadia Nina Noah Nora Olga Omar Oscar Otto Paula
Pedro Priya Rafa Ravi Rita Rosa Ruth Sam Sara Sofia Sven Tara Tess Tom Uma Vera Victor Wanda
Yara Yuki Zara Zoe
"""

# Plural, one lower-case word, small enough to be bought, packed, lost, shared and found.
_THINGS = """
apples books cards coins shells stamps marbles pencils cookies beads stones flowers
acorns almonds apricots badges bagels balloons bananas bells berries biscuits blocks bolts bottles bowls
bracelets bricks brushes buns buttons cakes candies candles carrots cherries chestnuts chocolates clips comics
corks crackers crayons crystals cups dolls donuts eggs envelopes erasers feathers figs flags gems
gloves grapes hats jars keys kites knives lamps lanterns lemons limes lollipops magazines magnets mangoes
maps melons muffins mugs nails napkins necklaces notebooks nuts onions oranges peaches pearls pears pebbles
pens photos pies pins plates plums postcards posters potatoes pretzels puzzles ribbons rings rulers
sandwiches scarves screws seeds shirts socks spoons stickers sweets tarts tickets tiles tomatoes towels toys
tulips walnuts whistles
"""

NAMES: tuple[str, ...] = tuple(_NAMES.split())
THINGS: tuple[str, ...] = tuple(_THINGS.split())
