"""What prompts are made of: a text of ordinary prose, an explanation as a model would give it, or ids at random.

Boundary: data. What is measured with it depends on its words, so they stay as they are.
"""

from __future__ import annotations

TEXT_SHARE = 0.95  # of a vocabulary is text; control tokens come behind

PROSE = """\
Tides are the regular rise and fall of the sea along the coast. Most places see two high tides and two low tides each
day, although some see only one of each. The main cause is the gravity of the moon, with a smaller contribution from
the sun. To understand why there are two high tides and not one, it helps to think about how gravity changes with
distance.

The side of the earth that faces the moon is closer to it than the centre of the earth, so the water there is pulled
a little more strongly than the earth as a whole. This draws the water into a bulge on that side. On the far side, the
water is farther from the moon than the centre of the earth, so it is pulled a little less strongly. The earth is, in
a sense, pulled away from under it, and a second bulge appears on the far side. As the earth turns, each point on the
coast passes through both bulges, and this is why there are two high tides in a day.

A day measured by the moon is about fifty minutes longer than a day measured by the sun, because the moon moves along
its orbit while the earth turns. For that reason the high tide comes about fifty minutes later each day. If the high
tide is at noon today, it will be at about ten minutes to one tomorrow, and at about twenty to two on the day after
that.

The sun also raises tides. It is far more massive than the moon, but it is also much farther away, and the strength
of a tide falls with the cube of the distance. As a result, the tides of the sun are a little less than half as strong
as the tides of the moon. When the sun and the moon are in line with the earth, at new moon and at full moon, their
tides add up, and the range between high tide and low tide is at its largest. These are called spring tides, although
they have nothing to do with the season. When the sun and the moon are at right angles to each other, at the first and
the last quarter, their tides partly cancel, and the range is at its smallest. These are called neap tides.

The shape of the coast matters as much as the moon. In the open ocean the range of the tide is often less than a
metre. In a bay that becomes narrower and shallower towards its end, the water has nowhere to go but up, and the range
can be more than ten metres. If the time that a wave needs to travel to the end of the bay and back is close to the
time between two high tides, each tide gives the water a push at the right moment, as a child on a swing is pushed,
and the range grows further. In a sea that is almost closed, on the other hand, little water can flow in and out
through the strait in six hours, and the tide is hardly noticed.

The weather plays a part as well. A strong wind that blows towards the coast piles up water against it, and low air
pressure lets the surface of the sea rise by about a centimetre for each hectopascal. When a storm arrives together
with a spring tide, the water can rise much higher than the tables say, and this is when dikes are most at risk. For
this reason the people who look after dikes watch the weather and the moon at the same time.

Tide tables are made by measuring the height of the water at a place for at least a year. The measurements are then
taken apart into a sum of regular waves, each of which belongs to a motion of the moon or of the sun. Once the height
and the timing of each wave are known, they can be added up for any day in the future. The waves that matter most are
the one of the moon, with a little more than twelve hours from one crest to the next, and the one of the sun, with
exactly twelve hours. A good table uses dozens of them, and it is usually right to within a few minutes and a few
centimetres, as long as the weather is calm.
"""
